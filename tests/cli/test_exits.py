"""Every error leads to a documented exit code."""

from collections.abc import Iterator

from partitiond.cli.exits import BY_CODE, MEANINGS, Exit, exit_for
from partitiond.core import errors
from partitiond.core.errors import ConflictError, NotFoundError, PartitiondError
from tests.cli.conftest import Cli


def classes(kind: type[PartitiondError]) -> Iterator[type[PartitiondError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from classes(child)


def test_every_kind_of_error_has_a_code_that_says_more_than_failed() -> None:
    """But for those of the endpoint, which no command raises."""
    kinds = set(classes(PartitiondError)) - {errors.UpstreamError}
    assert len(kinds) > 10
    assert not [kind for kind in kinds if exit_for(kind("broke.")) is Exit.FAILED]


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)
    assert set(BY_CODE.values()) <= set(Exit)


def test_an_error_of_a_new_class_takes_the_code_of_its_parent() -> None:
    class SpecialError(ConflictError):
        code = "special"

    assert exit_for(SpecialError("taken.")) is Exit.CONFLICT


def test_codes_do_not_change() -> None:
    """Scripts rely on the numbers."""
    assert exit_for(NotFoundError("no.")) == 3
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]


def test_a_path_that_the_system_refuses_is_said_in_words(cli: Cli) -> None:
    result = cli("plan --from", "x" * 5000)
    assert result.code == Exit.BAD_INPUT
    assert "cannot be used: File name too long" in result.err
    assert "characters)" in result.err
    assert len(result.err) < 1000
