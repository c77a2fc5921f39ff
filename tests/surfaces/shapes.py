"""Describes JSON by its keys and types, so that two releases can be compared.

The shape of an object is the shapes of its fields; of a list the shape that all of its elements
share; of anything else the name of its type. `null` agrees with every shape, and so does an empty
list with every list: whether a field is filled depends on the machine, whether it exists does not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.surfaces.lines import Line, differences

ANY_KEY = "*"
"""Stands for every key of an object whose keys are names: of models, settings, files."""
WORTH_A_NAME = 4
"""An object of so many fields is described once, and elsewhere it is the same `as` there."""


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
            return {ANY_KEY: _shared(shape_of(v, named, each) for v in value.values())}
        return {k: shape_of(value[k], named, f"{path}.{k}") for k in sorted(value)}
    if isinstance(value, list):
        return [_shared(shape_of(element, named, f"{path}[]") for element in value)]
    if value is None:
        return None
    return "number" if type(value) in {int, float} else type(value).__name__


def _shared(shapes: Iterable[Any]) -> Any:
    shared = None
    for shape in shapes:
        shared = _merged(shared, shape)
    return shared


def _merged(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return one if other is None else other
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return {key: _merged(one.get(key), other.get(key)) for key in keys}
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(one[0], other[0])]
    return " or ".join(sorted({*str(one).split(" or "), *str(other).split(" or ")}))


def lines_of(shapes: Mapping[str, Any]) -> Iterator[Line]:
    """A line for each field of some shapes with names, and one for an object described before."""
    known: list[tuple[str, Any]] = []
    _collect(shapes, known)
    for place, shape in known:
        for name, field in shape.items():
            yield from _lines(f"{place}.{name}", field, known)
    for name, shape in shapes.items():
        yield from _lines(name, shape, known)


def _collect(shape: Any, known: list[tuple[str, Any]], place: str = "") -> None:
    """Gathers the objects that have a name: by the first place, with what all places say."""
    if isinstance(shape, list):
        _collect(shape[0], known, f"{place}[]")
    elif isinstance(shape, dict):
        if place and len(shape) >= WORTH_A_NAME:
            for i, (first, same) in enumerate(known):
                if alike(same, shape):
                    known[i] = first, _merged(same, shape)
                    break
            else:
                known.append((place, shape))
        for name, field in shape.items():
            _collect(field, known, f"{place}.{name}" if place else name)


def _lines(place: str, shape: Any, known: list[tuple[str, Any]]) -> Iterator[Line]:
    if isinstance(shape, list):
        yield from _lines(f"{place}[]", shape[0], known)
    elif isinstance(shape, dict) and shape:
        first = next((name for name, same in known if alike(same, shape)), "")
        if first and len(shape) >= WORTH_A_NAME:
            if first != place:
                yield place, f"as {first}"
            return
        for name, field in shape.items():
            yield from _lines(f"{place}.{name}", field, known)
    else:
        yield place, "null" if shape is None else str(shape or "object")


def alike(one: Any, other: Any) -> bool:
    """Whether two shapes have the same fields, as far as both are filled."""
    if one is None or other is None:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return alike(one[0], other[0])
    return bool(one == other)


def broken(frozen: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Where two surfaces of this kind disagree: a place that is empty in one agrees with all."""
    empty = {place for lines in (frozen, now) for place, said in lines.items() if said == "null"}

    def is_filled(place: str) -> bool:
        return not any(place == e or place.startswith((f"{e}.", f"{e}[")) for e in empty)

    told = {place: said for place, said in frozen.items() if is_filled(place)}
    return [*differences(told, {place: said for place, said in now.items() if is_filled(place)})]
