"""Describes JSON by its keys and types, so that two releases can be compared.

The shape of an object is the shapes of its fields; of a list the shape that all of its elements
share; of anything else the name of its type. `null` agrees with every shape, and so does an empty
list with every list: whether a field is filled depends on the machine, whether it exists does not.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from tests.surfaces.lines import Line, differences

ANY_KEY = "*"
"""Stands for every key of an object whose keys are names: of models, settings, files."""


def shape_of(value: Any, named: frozenset[str] = frozenset(), path: str = "") -> Any:
    """Return the shape of a JSON value.

    Args:
        value: what `json.loads` returns.
        named: paths (`.models`, `.plan.demands`) of objects whose keys are names.
        path: of the value itself.
    """
    if isinstance(value, Mapping):
        if path in named:
            each = f"{path}.{ANY_KEY}"
            return {
                ANY_KEY: reduce(_merged, (shape_of(v, named, each) for v in value.values()), None)
            }
        return {k: shape_of(value[k], named, f"{path}.{k}") for k in sorted(value)}
    if isinstance(value, list):
        return [reduce(_merged, (shape_of(each, named, f"{path}[]") for each in value), None)]
    if value is None:
        return None
    return "number" if type(value) in {int, float} else type(value).__name__


def _merged(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return one if other is None else other
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return {key: _merged(one.get(key), other.get(key)) for key in keys}
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(one[0], other[0])]
    return " or ".join(sorted({*_kinds(one), *_kinds(other)}))


def _kinds(shape: Any) -> list[str]:
    return shape.split(" or ") if isinstance(shape, str) else [type(shape).__name__]


def lines_of(place: str, shape: Any) -> Iterator[Line]:
    """A line for each field of a shape."""
    if isinstance(shape, list):
        yield from lines_of(f"{place}[]", shape[0])
    elif isinstance(shape, dict) and shape:
        for name, field in shape.items():
            yield from lines_of(f"{place}.{name}", field)
    else:
        yield place, "null" if shape is None else str(shape or "object")


def broken(frozen: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Where two surfaces disagree; what is empty in one agrees with anything at its place."""
    found = {place for lines in (frozen, now) for place, said in lines.items() if said == "null"}
    empty = sorted(found, key=len)

    def above(place: str) -> str:
        """The highest place above it that is empty in one of both, or the place itself."""
        return next((e for e in empty if f"{place}.".startswith((f"{e}.", f"{e}["))), place)

    cut = (
        {above(p): "null" if above(p) in found else said for p, said in lines.items()}
        for lines in (frozen, now)
    )
    return [*differences(*cut)]
