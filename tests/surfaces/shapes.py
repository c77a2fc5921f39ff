"""Describes JSON by its keys and types, so that two releases can be compared.

The shape of an object is the shapes of its fields; of a list the shape that all of its elements
share; of anything else the name of its type. `null` agrees with every shape, and so does an empty
list with every list: whether a field is filled depends on the machine, whether it exists does not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

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
            return {ANY_KEY: _shared(shape_of(v, named, each) for v in value.values())}
        return {k: shape_of(value[k], named, f"{path}.{k}") for k in sorted(value)}
    if isinstance(value, list):
        return [_shared(shape_of(element, named, f"{path}[]") for element in value)]
    if value is None:
        return None
    return "number" if type(value) in {int, float} else type(value).__name__


def _shared(shapes: Iterator[Any]) -> Any:
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
    return one if one == other else f"{one} or {other}"


def differences(frozen: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield each place at which two shapes disagree, as a sentence."""
    if frozen is None or now is None:
        return
    if isinstance(frozen, dict) and isinstance(now, dict):
        for key in sorted(frozen.keys() | now.keys()):
            if key not in now:
                yield f"{path}.{key} is gone"
            elif key not in frozen:
                yield f"{path}.{key} is new"
            else:
                yield from differences(frozen[key], now[key], f"{path}.{key}")
    elif isinstance(frozen, list) and isinstance(now, list):
        yield from differences(frozen[0], now[0], f"{path}[]")
    elif frozen != now:
        yield f"{path or '.'} was {_said(frozen)} and is {_said(now)}"


def _said(shape: Any) -> str:
    if isinstance(shape, dict):
        return "an object"
    return "a list" if isinstance(shape, list) else str(shape)
