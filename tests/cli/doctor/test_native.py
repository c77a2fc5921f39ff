"""The doctor says whether the endpoint runs compiled, and how to compile it."""

from partitiond.cli.doctor.findings import CheckVerdict
from partitiond.cli.doctor.native import check_native


def test_compiled_is_well() -> None:
    assert check_native(built=True, problem=None).verdict is CheckVerdict.OK


def test_what_could_be_compiled_is_told_with_the_command() -> None:
    found = check_native(built=False, problem=None)
    assert found.verdict is CheckVerdict.WARN
    assert found.command.endswith("-m partitiond.native")


def test_what_is_missing_is_named_first() -> None:
    found = check_native(built=False, problem="there is no C compiler")
    assert "there is no C compiler" in found.advice
