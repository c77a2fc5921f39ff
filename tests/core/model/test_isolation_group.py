"""A group's name is part of a user's name, of a socket's and of a folder's."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.isolation_group import check_isolation_group, of_group
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind


def spec(group: str) -> ModelSpec:
    return ModelSpec("a", ModelSource(SourceKind.HUB, "org/a"), isolation_group=group)


@pytest.mark.parametrize("group", ["", "a", "blue", "nonesuch", "team-7", "abcdefghijkl"])
def test_a_group_is_named_in_a_few_letters(group: str) -> None:
    check_isolation_group(group)
    assert spec(group).isolation_group == group
    assert len(of_group("partitiond-engine", group)) <= 31, "a user's name has at most 32 letters"


@pytest.mark.parametrize(
    "group",
    ["Blue", "7a", "-a", "a-", "a_b", "a.b", "a/b", "a b", "a\n", "é", "abcdefghijklm", "none"],
)
def test_other_names_are_refused_with_what_to_write(group: str) -> None:
    with pytest.raises(SpecError, match="isolation group") as refused:
        spec(group)
    assert "1 to 12 lower-case letters" in refused.value.hint


def test_the_default_group_has_the_plain_names() -> None:
    assert of_group("partitiond-engine", "") == "partitiond-engine"
    assert of_group("partitiond-engine", "blue") == "partitiond-engine-blue"
