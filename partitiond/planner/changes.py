"""What-if changes: how they are written, and what each means.

    +2 a100-80gb                 two more of these
    -1 h100-80gb                 one less, the one with the least on it
    lose gpu-3                   a device, by id or number; `host NAME` or `rack NAME`
    demand opt-1.3b=50/s         another demand; `max` for as much as there is
    demand opt-1.3b*2            a multiple of it; `demand *1.5` for all models
    no mig, only mps             sharing modes of the GPUs
    objective max-min            another objective
    without rule opt-1.3b.slo    without one of its rules (`*.slo`: of all models)
    without model opt-13b        without the model

Several at once are separated by ";".
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Collection
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.hardware import SharingMode
from partitiond.core.objectives import objectives_told
from partitiond.core.plan import Objective
from partitiond.core.spec import MAX_DEMAND_REQ_PER_S

FORMS: Final = (
    '"+2 a100-80gb", "-1 h100-80gb", "lose gpu-3", "lose host node-1", "demand NAME=50/s", '
    '"demand NAME*2", "no mig", "only mps", "objective max-min", "without rule NAME.slo", '
    '"without model NAME"'
)
RULES: Final = (
    "slo",
    "isolation",
    "min_replicas",
    "max_replicas",
    "avoid",
    "near",
    "only_on",
    "survive",
    "burst",
)
"""What `without rule` can drop. `burst` is the demand's burst factor or percentile."""
ALL: Final = "*"
MAX_ADDED: Final = 4096
_MODES: Final = tuple(m for m in SharingMode if m is not SharingMode.CORES)


@dataclasses.dataclass(frozen=True, slots=True)
class AddDevices:
    """More devices of one kind."""

    count: int
    hardware: str


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveDevices:
    """Fewer devices of one kind."""

    count: int
    hardware: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lose:
    """A device, host or rack that is gone."""

    kind: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class SetDemand:
    """Another demand of one model; None for as much as there is."""

    model: str
    req_per_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ScaleDemand:
    """A multiple of the demand of one model, or of all of them."""

    model: str
    factor: float


@dataclasses.dataclass(frozen=True, slots=True)
class Modes:
    """Sharing modes that the GPUs may not, or alone may, take."""

    modes: tuple[SharingMode, ...]
    only: bool


@dataclasses.dataclass(frozen=True, slots=True)
class SetObjective:
    """Another objective."""

    objective: Objective


@dataclasses.dataclass(frozen=True, slots=True)
class DropRule:
    """A rule of one model, or of all, that does not hold."""

    model: str
    rule: str


@dataclasses.dataclass(frozen=True, slots=True)
class DropModel:
    """A model that is not wanted."""

    model: str


Change = (
    AddDevices
    | RemoveDevices
    | Lose
    | SetDemand
    | ScaleDemand
    | Modes
    | SetObjective
    | DropRule
    | DropModel
)


def parse_changes(text: str) -> tuple[Change, ...]:
    """The changes of one what-if, in order. Raises InputError."""
    parts = [part.strip() for part in text.split(";")]
    if not any(parts):
        raise InputError("a what-if is empty.", hint=f"Write for example {FORMS}.")
    return tuple(_parse(part) for part in parts if part)


def _parse(text: str) -> Change:
    verb, _, rest = text.partition(" ")
    rest = rest.strip()
    if verb[0] in "+-":
        return _devices(text)
    parsers = {
        "lose": _lose,
        "demand": _demand,
        "no": _modes,
        "only": _modes,
        "objective": _objective,
        "without": _without,
    }
    word = verb.lower()
    if word not in parsers:
        close = difflib.get_close_matches(word, parsers, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"the what-if {text!r} is not understood.{meant}", hint=f"Write {FORMS}.")
    if not rest:
        raise InputError(f"the what-if {text!r} is not complete.", hint=f"Write {FORMS}.")
    return parsers[word](text, rest)


_COUNT = re.compile(r"^([+-])\s*(\d+)?\s*[x*]?\s*([A-Za-z][\w.-]*)$")


def _devices(text: str) -> Change:
    match = _COUNT.match(text)
    if match is None:
        raise InputError(
            f"the what-if {text!r} names no number and kind of device.",
            hint='Write "+2 a100-80gb" or "-1 h100-80gb".',
        )
    count = int(match.group(2) or 1)
    if not 0 < count <= MAX_ADDED:
        raise InputError(
            f"{text!r}: the number of devices must lie between 1 and {MAX_ADDED}.",
            hint='Write "+2 a100-80gb".',
        )
    kind = AddDevices if match.group(1) == "+" else RemoveDevices
    return kind(count, match.group(3).lower())


def _lose(text: str, rest: str) -> Change:
    first, _, name = rest.partition(" ")
    if first in {"device", "host", "rack"} and name.strip():
        return Lose(first, name.strip())
    if " " in rest:
        raise InputError(
            f"{text!r} names no one thing that is lost.",
            hint='Write "lose gpu-3", "lose host node-1" or "lose rack r1".',
        )
    return Lose("device", rest)


_SCALE = re.compile(r"^(?P<model>\*|all|[^\s=*]*)\s*\*\s*(?P<number>\S+)$")


def _demand(text: str, rest: str) -> Change:
    hint = (
        'Write "demand opt-1.3b=50/s", "demand opt-1.3b=max", "demand opt-1.3b*2", "demand *1.5".'
    )
    if "=" in rest:
        model, _, amount = rest.partition("=")
        model, amount = model.strip(), amount.strip().lower()
        if not model:
            raise InputError(f"{text!r} names no model.", hint=hint)
        if amount in {"max", "all"}:
            return SetDemand(model, None)
        for unit in ("req/s", "rps", "/s"):
            amount = amount.removesuffix(unit).strip()
        return SetDemand(model, _number(text, amount, MAX_DEMAND_REQ_PER_S, "requests/s", hint))
    match = _SCALE.match(rest)
    if match is None:
        raise InputError(f"{text!r} gives no demand.", hint=hint)
    model = match.group("model")
    factor = _number(text, match.group("number"), 1e6, "times", hint)
    return ScaleDemand(ALL if model in {"", ALL, "all"} else model, factor)


def _number(text: str, given: str, most: float, unit: str, hint: str) -> float:
    try:
        value = float(given)
    except ValueError as error:
        raise InputError(f"{text!r}: {given!r} is no number.", hint=hint) from error
    if not (math.isfinite(value) and 0 < value <= most):
        raise InputError(f"{text!r}: give a number above 0 and at most {most:g} {unit}.", hint=hint)
    return value


def _modes(text: str, rest: str) -> Change:
    words = [word for word in re.split(r"[\s,]+", rest.lower()) if word not in {"", "and", "or"}]
    names = {mode.value for mode in _MODES}
    wrong = next((word for word in words if word not in names), None)
    if wrong is not None or not words:
        raise InputError(
            f"{text!r}: {wrong or rest!r} is no sharing mode of GPUs.",
            hint=f"Use {', '.join(sorted(names))}.",
        )
    return Modes(tuple(SharingMode(word) for word in words), text.lower().startswith("only"))


def _objective(text: str, rest: str) -> Change:
    try:
        return SetObjective(Objective(rest.lower()))
    except ValueError as error:
        hint = f"Use one of these: {objectives_told()}."
        raise InputError(f"{text!r}: {rest!r} is no objective.", hint=hint) from error


def _without(text: str, rest: str) -> Change:
    first, _, name = rest.partition(" ")
    if first.lower() == "model" and name.strip():
        return DropModel(name.strip())
    target = name.strip() if first.lower() == "rule" else rest
    model, dot, rule = target.rpartition(".")
    rule = rule.lower().replace("-", "_")
    if not dot or not model or rule not in RULES:
        raise InputError(
            f"{text!r} names no rule of a model.",
            hint=f'Write "without rule NAME.RULE", where RULE is one of {", ".join(RULES)}; or '
            '"without model NAME".',
        )
    return DropRule(model, rule)


def suggestion(name: str, known: Collection[str], most: int = 8) -> str:
    """A hint for a name that is not known: the closest ones, or the first few there are."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = sorted(known)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    if len(shown) <= 1:
        return f"There is only {shown[0]}." if shown else "There are none."
    return f"There are {', '.join(shown[:most])}{rest}."
