"""Surfaces of the product stay as they were frozen."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.surfaces.shapes import differences, shape_of
from tests.surfaces.surfaces import SURFACES, frozen, without_texts


@pytest.fixture(scope="module")
def surfaces() -> Any:
    """Made in a process that did nothing else, as a user's first look at them is."""
    command = [sys.executable, "-m", "tests.surfaces.surfaces", "--print"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_is_as_it_was_frozen(name: str, surfaces: Any) -> None:
    assert surfaces[name] == frozen(name), (
        "This is a change for users. If it is meant, list it in CHANGELOG.md and run"
        " `python -m tests.surfaces.surfaces`."
    )


def test_fields_with_the_name_of_a_text_are_no_texts() -> None:
    schema = {"title": "Body", "properties": {"title": {"type": "string", "description": "x"}}}
    assert without_texts(schema) == {"properties": {"title": {"type": "string"}}}


def test_shapes_tell_what_is_gone_new_and_of_another_type() -> None:
    frozen_shape = shape_of({"a": 1, "b": {"c": "x"}, "d": [{"e": None}, {"e": 2.5}]})
    now = shape_of({"a": "1", "b": {}, "d": [], "f": True})
    assert [*differences(frozen_shape, now)] == [
        ".a was number and is str",
        ".b.c is gone",
        ".f is new",
    ]


def test_null_and_empty_lists_agree_with_everything() -> None:
    assert not [*differences(shape_of({"a": None, "b": []}), shape_of({"a": [1], "b": [{}]}))]


def test_an_object_with_names_as_keys_has_one_shape_for_all() -> None:
    named = frozenset({".models"})
    one = shape_of({"models": {"a": {"x": 1}}}, named)
    assert not [*differences(one, shape_of({"models": {"b": {"x": 2}, "c": {"x": 3}}}, named))]
    assert [*differences(one, shape_of({"models": {"b": {}}}, named))] == [".models.*.x is gone"]
