"""Surfaces of the product stay as they were frozen."""

from typing import Any

import pytest

from tests.surfaces import outputs
from tests.surfaces.lines import differences
from tests.surfaces.shapes import broken, lines_of, shape_of
from tests.surfaces.surfaces import SURFACES, frozen

IF_MEANT = "This is a change for users. If it is meant, list it in CHANGELOG.md and run"


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_is_as_it_was_frozen(name: str) -> None:
    found = [*SURFACES[name]()]
    assert len(dict(found)) == len(found)
    assert not [*differences(frozen(name), dict(found))], (
        f"{IF_MEANT} `python -m tests.surfaces.surfaces`."
    )


def test_json_outputs_have_the_fields_that_they_had() -> None:
    assert not broken(frozen(outputs.NAME), outputs.outputs()), (
        f"{IF_MEANT} `python -m tests.surfaces.outputs`."
    )


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"a": {"z": 1}, "b": [{"q": 2}], "c": {"d": 1.5, "e": "s"}, "f": [True, [1]]}, []),
        ({"b": [], "c": None, "f": [True, []]}, ["x.a is gone"]),
        ({"a": 1, "b": [], "c": {"d": 1, "e": 2, "g": None}, "f": None}, ["x.c.g is new: null"]),
        ({"a": 1, "b": [], "c": {"d": "s", "e": 1}, "f": []}, ["x.c.d was number and is str"]),
    ],
)
def test_what_is_empty_agrees_with_anything_and_not_with_nothing(now: Any, told: list[str]) -> None:
    was = {"a": None, "b": [], "c": {"d": 1, "e": None}, "f": [[], False]}
    frozen, found = (dict(lines_of("x", shape_of(one))) for one in (was, now))
    assert broken(frozen, found) == told
