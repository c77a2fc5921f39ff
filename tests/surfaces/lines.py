"""Writes surfaces as lines, one for each field, so that a change is read in a diff.

A line is `place: what stands there`. Nothing is left out but texts for people: if two documents
differ, so do their lines. How types are written:

    Rates.limit: integer (minimum=0)       needed
    Rates.label: string = ""               has a default
    Rates.note?: string|null               may be missing
    Rates.state: enum(day|hour)            one of these
    Rates.pairs: [number, number][]        a list of pairs
    POST /keys 401, 409: application/problem+json Problem
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Line = tuple[str, str]
TEXTS = {"description", "summary", "title", "example", "examples"}
"""Keys of OpenAPI documents that are for people."""
REFERENCE = "#/components/schemas/"
CLOSED = {"type": "object", "additionalProperties": False}
"""An object with the fields that are named and no others, as nearly all are: it has no line."""


def of_document(document: Mapping[str, Any]) -> Iterator[Line]:
    """Each line of an OpenAPI document."""
    rest = without_texts(document)
    components = rest.pop("components")
    for name, schema in components.pop("schemas").items():
        yield from of_schema(name, schema)
    for path, methods in rest.pop("paths").items():
        for method, operation in methods.items():
            yield from of_operation(f"{method.upper()} {path}", operation)
    for key, value in (components | rest).items():
        yield key, _json(value)


def without_texts(value: Any, *, names: bool = False) -> Any:
    """The same without texts for people; `names`: the keys of this object are names."""
    if isinstance(value, dict):
        return {
            key: without_texts(part, names=key in {"properties", "schemas", "paths"} and not names)
            for key, part in value.items()
            if names or key not in TEXTS
        }
    return [without_texts(part) for part in value] if isinstance(value, list) else value


def of_operation(place: str, operation: dict[str, Any]) -> Iterator[Line]:
    """What is sent and what may come back, of one method of a path."""
    rest = dict(operation)
    for parameter in rest.pop("parameters", ()):
        its = dict(parameter)
        mark = "" if its.pop("required", False) else "?"
        where = f"{place} {its.pop('in')} {its.pop('name')}{mark}"
        yield from of_schema(where, its.pop("schema"), its)
    if body := dict(rest.pop("requestBody", {})):
        mark = "" if body.pop("required", False) else "?"
        for kind, schema in _contents(body):
            yield from of_schema(f"{place} body{mark} {kind}", schema, body)
    alike: dict[tuple[Line, ...], list[str]] = {}
    for status, response in rest.pop("responses").items():
        alike.setdefault(tuple(_response(response)), []).append(status)
    for lines, statuses in alike.items():
        for inner, said in lines:
            yield f"{place} {', '.join(sorted(statuses))}{inner}", said
    yield place, _and_rest(rest.pop("operationId", ""), rest)


def _response(response: dict[str, Any]) -> Iterator[Line]:
    rest = dict(response)
    for name, header in rest.pop("headers", {}).items():
        its = dict(header)
        yield from of_schema(f" header {name}", its.pop("schema"), its)
    whole = [*_contents(rest)]
    said = " or ".join(f"{kind} {_said(schema)}" for kind, schema in whole)
    yield "", _and_rest(said or "nothing", rest)


def _contents(holder: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Media types with their schemas, taken out of what holds them."""
    for kind, content in holder.pop("content", {}).items():
        its = dict(content)
        schema = its.pop("schema", {})
        yield _and_rest(kind, its), schema


def of_schema(place: str, schema: Any, beside: Mapping[str, Any] | None = None) -> Iterator[Line]:
    """A schema and, if it has fields, each of them; `beside`: what is said of it elsewhere."""
    rest = dict(schema) if isinstance(schema, dict) else {"is": schema}
    fields = rest.pop("properties", None)
    if not isinstance(fields, dict):
        yield place, _and_rest(_said(schema), beside or {})
        return
    needed = rest.pop("required", [])
    if unknown := sorted(set(needed) - set(fields)):
        rest["required"] = unknown
    if not fields or beside or rest != CLOSED:
        yield place, _said(rest | dict(beside or {}))
    for name, field in fields.items():
        default = isinstance(field, dict) and "default" in field
        mark = {(True, True): "!", (False, False): "?"}.get((name in needed, default), "")
        yield from of_schema(f"{place}.{name}{mark}", field)


def _said(schema: Any) -> str:
    """A type in one line; what has no short form stands behind it as it is."""
    if not isinstance(schema, dict):
        return _json(schema)
    rest = dict(schema)
    said = _short(rest)
    default = f" = {_json(rest.pop('default'))}" if "default" in rest else ""
    return _and_rest(said, rest) + default


def _short(rest: dict[str, Any]) -> str:
    """Takes out of a schema what the short form of its type says."""
    match rest:
        case {"$ref": str(name)} if name.startswith(REFERENCE):
            del rest["$ref"]
            return name.removeprefix(REFERENCE)
        case {"anyOf": [_, *_] as several}:
            del rest["anyOf"]
            return "|".join(map(_said, several))
        case {"type": "string", "enum": [_, *_] as values} if all(
            isinstance(value, str) for value in values
        ):
            del rest["type"], rest["enum"]
            return f"enum({'|'.join(values)})"
        case {"type": "array", "prefixItems": list(items), "minItems": low, "maxItems": high} if (
            low == high == len(items)
        ):
            for key in ("type", "prefixItems", "minItems", "maxItems"):
                del rest[key]
            return f"[{', '.join(map(_said, items))}]"
        case {"type": "array", "items": items}:
            del rest["type"], rest["items"]
            each = _said(items)
            return f"{each}[]" if each.replace("_", "").isalnum() else f"({each})[]"
        case {"type": "object", "additionalProperties": dict(each)} if each:
            del rest["type"], rest["additionalProperties"]
            return f"{{string: {_said(each)}}}"
        case {"type": str(kind)}:
            del rest["type"]
            return kind
        case {"type": [_, *_] as kinds} if all(isinstance(kind, str) for kind in kinds):
            del rest["type"]
            return "|".join(kinds)
    return "anything" if not rest else "whatever"


def _and_rest(said: str, rest: Mapping[str, Any]) -> str:
    more = ", ".join(f"{key}={_json(value)}" for key, value in sorted(rest.items()))
    return f"{said} ({more})" if more else said


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def differences(frozen: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield each place at which two surfaces disagree, as a sentence."""
    for place in sorted(frozen.keys() | now.keys()):
        if place not in now:
            yield f"{place} is gone"
        elif place not in frozen:
            yield f"{place} is new: {now[place]}"
        elif frozen[place] != now[place]:
            yield f"{place} was {frozen[place]} and is {now[place]}"
