"""Whatever differs between two documents for programs differs between their lines."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from docs import generate
from partitiond.proxy.request.openapi import document as endpoint_document
from tests.surfaces.lines import (
    REFERENCE,
    differences,
    of_operation,
    of_schema,
    without_texts,
)

MODEL = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "rate": {"type": "number", "default": 1.5},
        "state": {"type": "string", "enum": ["on", "off"]},
        "window": {
            "type": "array",
            "prefixItems": [{"type": "number"}, {"$ref": f"{REFERENCE}Day"}],
            "minItems": 2,
            "maxItems": 2,
        },
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "by_name": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}


def test_a_field_is_a_line() -> None:
    assert [": ".join(line) for line in of_schema("Model", MODEL)] == [
        "Model.name: string (minLength=1)",
        "Model.note?: string|null",
        "Model.rate: number = 1.5",
        "Model.state?: enum(on|off)",
        "Model.window?: [number, Day]",
        "Model.tags: string[] = []",
        "Model.by_name?: {string: integer}",
    ]


@pytest.mark.parametrize(
    ("what", "change", "found"),
    [
        (
            "a field is gone",
            lambda model: model["properties"].pop("rate"),
            ["Model.rate is gone"],
        ),
        (
            "a type is another",
            lambda model: model["properties"]["rate"].update(type="integer"),
            ["Model.rate was number = 1.5 and is integer = 1.5"],
        ),
        (
            "a new field is needed",
            lambda model: (
                model["properties"].update(colour={"type": "string"}),
                model["required"].append("colour"),
            ),
            ["Model.colour is new: string"],
        ),
        (
            "a field becomes needed",
            lambda model: model["required"].append("note"),
            ["Model.note is new: string|null", "Model.note? is gone"],
        ),
        (
            "a value is gone",
            lambda model: model["properties"]["state"]["enum"].remove("off"),
            ["Model.state? was enum(on|off) and is enum(on)"],
        ),
        (
            "null is refused",
            lambda model: model["properties"]["note"]["anyOf"].pop(),
            ["Model.note? was string|null and is string"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_program_is_told(what: str, change: Any, found: list[str]) -> None:
    later = copy.deepcopy(MODEL)
    change(later)
    lines = [dict(of_schema("Model", model)) for model in (MODEL, later)]
    assert [*differences(*lines)] == found, what


@pytest.mark.parametrize("made", [generate.control_api_document, endpoint_document])
def test_no_change_of_a_real_document_is_lost(made: Any) -> None:
    document = without_texts(made())
    tried = 0
    for name, schema in document["components"]["schemas"].items():
        for changed in islice(_changes(schema), 0, None, 5):
            tried += 1
            assert [*of_schema(name, changed)] != [*of_schema(name, schema)], changed
    for operation in (one for methods in document["paths"].values() for one in methods.values()):
        for changed in islice(_changes(operation), 0, None, 5):
            tried += 1
            assert _lines(changed) != _lines(operation), changed
    assert tried > 300


def _lines(operation: Any) -> list[tuple[str, str]]:
    try:
        return sorted(of_operation("GET /", operation))
    except KeyError:
        return []  # this is no operation: nothing is lost


def _changes(value: Any) -> Iterator[Any]:
    """The value with one thing gone, or another, at each place."""
    if isinstance(value, dict):
        for key, part in value.items():
            others = {name: one for name, one in value.items() if name != key}
            if (key, part) != ("required", False):
                yield others
            yield from (others | {key: changed} for changed in _changes(part))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield value[:i] + value[i + 1 :]
            yield from ([*value[:i], changed, *value[i + 1 :]] for changed in _changes(part))
    else:
        yield not value if isinstance(value, bool) else f"not {value}"


def test_fields_with_the_name_of_a_text_are_no_texts() -> None:
    schema = {"title": "Body", "properties": {"title": {"type": "string", "description": "x"}}}
    assert without_texts(schema) == {"properties": {"title": {"type": "string"}}}
