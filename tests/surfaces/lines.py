"""Writes surfaces as lines, one for each field, so that a change is read in a diff.

A line is `place: what stands there`. Nothing is left out but texts for people: if two documents
differ, so do their lines.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Line = tuple[str, str]
TEXTS = {"description", "summary", "title", "example", "examples"}
"""Keys of OpenAPI documents that are for people."""


def of_document(value: Any, place: str = "") -> Iterator[Line]:
    """Each value of an OpenAPI document by its place; what is in lists stands in one line."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from of_document(part, f"{place}.{key}" if place else key)
    else:
        yield place, json.dumps(value, sort_keys=True, ensure_ascii=False)


def without_texts(value: Any, *, names: bool = False) -> Any:
    """The same without texts for people; `names`: the keys of this object are names."""
    if isinstance(value, dict):
        return {
            key: without_texts(part, names=key in {"properties", "schemas", "paths"} and not names)
            for key, part in value.items()
            if names or key not in TEXTS
        }
    return [without_texts(part) for part in value] if isinstance(value, list) else value


def differences(frozen: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield each place at which two surfaces disagree, as a sentence."""
    for place in sorted(frozen.keys() | now.keys()):
        if place not in now:
            yield f"{place} is gone"
        elif place not in frozen:
            yield f"{place} is new: {now[place]}"
        elif frozen[place] != now[place]:
            yield f"{place} was {frozen[place]} and is {now[place]}"
