"""Parses what-if changes, which are written as follows:

    +2 a100-80gb                 two more of these
    -1 h100-80gb                 one less, the one with the least on it
    lose gpu-3                   a device, by id or number; `host NAME` or `rack NAME`
    demand opt-1.3b=50/s         another demand; `max` for as much as there is
    demand opt-1.3b*2            a multiple of the demand; `demand *1.5` for all models
    no mig, only mps             sharing modes of the GPUs
    objective max-min            another objective
    without rule opt-1.3b.slo    without one of the model's rules (`*.slo`: of all models)
    without model opt-13b        without the model

Several changes at once are separated by ";".
"""

import difflib
import functools
import math
import re
from typing import Final

from partitiond.core.checks import MAX_REQ_PER_S
from partitiond.core.errors import InputError, PartitiondError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.plan.objectives import objectives_told
from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.answers import whatif
from partitiond.planner.answers.whatif import ALL, RULES, Change, World

FORMS: Final = (
    '"+2 a100-80gb", "-1 h100-80gb", "lose gpu-3", "lose host node-1", "demand NAME=50/s", '
    '"demand NAME*2", "no mig", "only mps", "objective max-min", "without rule NAME.slo", '
    '"without model NAME"'
)
MAX_ADDED: Final = 4096


def models_named(text: str) -> list[str]:
    """Return the models in a what-if, "*" for all. Raises InputError: it cannot be parsed."""
    about_models = (whatif.set_demand, whatif.scale_demand, whatif.drop_rule, whatif.drop_model)
    return [change.args[0] for change in parse_changes(text) if change.func in about_models]


def world_under(text: str, world: World, plan: Plan | None = None) -> World:
    """Return the world under a what-if; see `whatif.Change` for the use of `plan`.

    Raises:
        InputError: the what-if cannot be parsed, names something that does not exist, or gives a
            model an impossible value; the message quotes the what-if.
    """
    changes = parse_changes(text)
    try:
        for change in changes:
            world = change(world, plan)
    except PartitiondError as error:
        raise InputError(
            f"the what-if {text!r}: {error.message}", hint=error.hint, facts=error.facts
        ) from error
    return world


def only_forbids(text: str) -> bool:
    """Return whether every plan under the what-if is also valid without it. Raises InputError."""
    forbidding = (whatif.remove_devices, whatif.lose, whatif.limit_modes)
    return all(change.func in forbidding for change in parse_changes(text))


def parse_changes(text: str) -> tuple[Change, ...]:
    """Parse the changes of one what-if, in order. Raises InputError."""
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


_COUNT = re.compile(r"([+-]) ?(\d{1,9})? ?[x*]? ?([A-Za-z][\w.-]*)")


def _devices(text: str) -> Change:
    match = _COUNT.fullmatch(" ".join(text.split()))
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
    change = whatif.add_devices if match.group(1) == "+" else whatif.remove_devices
    return functools.partial(change, count, match.group(3).lower())


def _lose(text: str, rest: str) -> Change:
    first, _, name = rest.partition(" ")
    if first in {"device", "host", "rack"} and name.strip():
        return functools.partial(whatif.lose, first, name.strip())
    if " " in rest:
        raise InputError(
            f"{text!r} names no one thing that is lost.",
            hint='Write "lose gpu-3", "lose host node-1" or "lose rack r1".',
        )
    return functools.partial(whatif.lose, "device", rest)


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
            return functools.partial(whatif.set_demand, model, None)
        for unit in ("req/s", "rps", "/s"):
            amount = amount.removesuffix(unit).strip()
        rate = _number(text, amount, MAX_REQ_PER_S, "requests/s", hint)
        return functools.partial(whatif.set_demand, model, rate)
    match = _SCALE.match(rest)
    if match is None:
        raise InputError(f"{text!r} gives no demand.", hint=hint)
    factor = _number(text, match.group("number"), 1e6, "times", hint)
    model = ALL if match.group("model") in {"", "all"} else match.group("model")
    return functools.partial(whatif.scale_demand, model, factor)


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
    names = {mode.value for mode in SharingMode if mode is not SharingMode.CORES}
    wrong = next((word for word in words if word not in names), None)
    if wrong is not None or not words:
        raise InputError(
            f"{text!r}: {wrong or rest!r} is no sharing mode of GPUs.",
            hint=f"Use {', '.join(sorted(names))}.",
        )
    modes = tuple(SharingMode(word) for word in words)
    return functools.partial(whatif.limit_modes, modes, text.lower().startswith("only"))


def _objective(text: str, rest: str) -> Change:
    try:
        return functools.partial(whatif.set_objective, Objective(rest.lower()))
    except ValueError as error:
        hint = f"Use one of these: {objectives_told()}."
        raise InputError(f"{text!r}: {rest!r} is no objective.", hint=hint) from error


def _without(text: str, rest: str) -> Change:
    first, _, name = rest.partition(" ")
    if first.lower() == "model" and name.strip():
        return functools.partial(whatif.drop_model, name.strip())
    target = name.strip() if first.lower() == "rule" else rest
    model, dot, rule = target.rpartition(".")
    rule = rule.lower().replace("-", "_")
    if not dot or not model or rule not in RULES:
        raise InputError(
            f"{text!r} names no rule of a model.",
            hint=f'Write "without rule NAME.RULE", where RULE is one of {", ".join(RULES)}; or '
            '"without model NAME".',
        )
    return functools.partial(whatif.drop_rule, model, rule)
