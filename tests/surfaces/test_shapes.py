"""Shapes of JSON tell what programs would miss, and nothing that depends on the machine."""

from typing import Any

import pytest

from tests.surfaces.shapes import broken, lines_of, shape_of

WIDE = {"id": "a", "host": "h", "cores": [1], "watts": None}


def compared(frozen: Any, now: Any, *named: str) -> list[str]:
    one, other = (dict(lines_of({"x": shape_of(it, frozenset(named))})) for it in (frozen, now))
    return broken(one, other)


@pytest.mark.parametrize(
    ("frozen", "now", "found"),
    [
        ({"a": 1}, {"a": "1"}, ["x.a was number and is str"]),
        ({"a": 1, "b": 1}, {"a": 1}, ["x.b is gone"]),
        ({"a": 1}, {"a": 1, "b": 1}, ["x.b is new: number"]),
        ({"b": {"c": "x"}}, {"b": {}}, ["x.b is new: object", "x.b.c is gone"]),
        ({"b": {"c": 1}}, {"b": [1]}, ["x.b.c is gone", "x.b[] is new: number"]),
        ({"d": [{"e": None}, {"e": 2}]}, {"d": [{"e": True}]}, ["x.d[].e was number and is bool"]),
        ([WIDE, {"in": WIDE}], [WIDE, {"in": WIDE | {"watts": 1}}], []),
        ({"a": WIDE, "b": WIDE}, {"a": WIDE, "b": {}}, ["x.b was as x.a and is object"]),
        ({"a": WIDE}, {"a": {**WIDE, "id": 1}}, ["x.a.id was str and is number"]),
        # whether a field is filled depends on the machine
        ({"a": None, "b": []}, {"a": [1], "b": [{}]}, []),
        ({"a": [WIDE], "b": {"c": 1}}, {"a": [], "b": None}, []),
    ],
)
def test_shapes_tell_what_is_gone_new_and_of_another_type(
    frozen: Any, now: Any, found: list[str]
) -> None:
    assert compared(frozen, now) == found


def test_an_object_with_names_as_keys_has_one_shape_for_all() -> None:
    one = {"models": {"a": {"x": 1}}}
    assert not compared(one, {"models": {"b": {"x": 2}, "c": {"x": 3}}}, ".models")
    gone = compared(one, {"models": {"b": {}}}, ".models")
    assert gone == ["x.models.* is new: object", "x.models.*.x is gone"]


def test_an_object_of_many_fields_is_described_once_with_what_all_say() -> None:
    lines = dict(lines_of({"list": [shape_of(WIDE)], "show": shape_of(WIDE | {"watts": 2})}))
    assert lines == {
        "list[].cores[]": "number",
        "list[].host": "str",
        "list[].id": "str",
        "list[].watts": "number",
        "show": "as list[]",
    }
