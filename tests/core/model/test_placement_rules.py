"""Impossible placement rules are refused, in messages that can be printed anywhere."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.placement_rules import PlacementRules

LISTS = ("avoid", "near", "only_on")


@pytest.mark.parametrize("rule", LISTS)
@pytest.mark.parametrize("name", ["a\x00b", "\x1b[2J", "line\nbreak", "\u202eabc", "x" * 257, ""])
def test_a_name_that_cannot_be_printed_is_refused(rule: str, name: str) -> None:
    with pytest.raises(SpecError) as refused:
        PlacementRules(**{rule: ("fine", name)})  # type: ignore[arg-type]
    assert refused.value.message.startswith(rule)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
    assert refused.value.hint


@pytest.mark.parametrize("rule", LISTS)
def test_names_of_any_language_are_fine(rule: str) -> None:
    rules = PlacementRules(**{rule: ("Gestell 4", "GPU-1f0c/7", "\u67b6-2")})  # type: ignore[arg-type]
    assert getattr(rules, rule)[0] == "Gestell 4"


def test_a_model_cannot_be_avoided_and_near() -> None:
    with pytest.raises(SpecError, match="b stands both in avoid and in near"):
        PlacementRules(avoid=("b",), near=("b", "c"))
    with pytest.raises(SpecError, match="b, c stand both in avoid and in near"):
        PlacementRules(avoid=("b", "c"), near=("b", "c"))
