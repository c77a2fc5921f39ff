"""Finds the smallest changes after which a plan serves everything."""

import math
from collections.abc import Iterable

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.plan.answers import Alternative, Relaxations
from partitiond.core.plan.record import Plan
from partitiond.planner.answers.variations import Variations
from partitiond.planner.answers.whatif import rules_of
from partitiond.planner.pack.flow import Outcome, Steps

MAX_RULES = 6
"""Limit on rules that are dropped in turn. Chosen, not measured."""
MAX_KINDS = 3
MAX_MORE = 256
"""Limits on kinds of device, and on devices of one kind, that are added. Chosen."""
RELAX_SHARE = 0.25
"""Share of the time limit for each plan. Chosen, not measured."""
FLOW_SHARE = 3.0
"""Multiple of the limit for all changes together; a plan in progress is finished. Chosen."""
SLACK = 0.999
"""Chosen: a rate that a plan gives is rounded down by at least this factor."""


def relaxations(here: Variations, outcome: Outcome) -> Steps[Relaxations]:
    """Find what would help if a plan leaves something out, or if there is no plan at all."""
    here.within(FLOW_SHARE * here.base.time_limit_seconds)
    lacking = {spec.name for spec in here.world.specs}
    cheapest: list[Alternative] = []
    if isinstance(outcome, Plan):
        lacking = {u.model for u in outcome.unplaced}
        cheapest += yield from _lowered(here, outcome)
    cheapest += yield from _rules(here, lacking)
    cheapest += yield from _devices(here, lacking)
    late = "there was not enough time to try every change that might help"
    return Relaxations(late if here.late() else "", tuple(cheapest))


def _lowered(here: Variations, plan: Plan) -> Steps[list[Alternative]]:
    """Lower the demands that lack something to the rates that the plan gives them."""
    given = {f.model: f.capacity_req_per_s for f in plan.forecasts}
    if not all(u.missing_req_per_s and given.get(u.model) for u in plan.unplaced):
        return []
    here.steps += 1
    lacking = sorted({u.model for u in plan.unplaced})
    text = "; ".join(f"demand {name}={_down(given[name])}/s" for name in lacking)
    return (yield from _serving(here, [text]))


def _down(value: float) -> str:
    """Format with three digits, rounded down."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value * SLACK / unit) * unit:.3g}"


def _serving(here: Variations, texts: Iterable[str], most: int = 1) -> Steps[list[Alternative]]:
    """Try the what-ifs in turn; return the first `most` of them that serve everything."""
    found: list[Alternative] = []
    for text in texts:
        if here.late() or len(found) == most:
            break
        tried = yield from here.tried(text, share=RELAX_SHARE, asked=False)
        found += [tried] if tried.serves_all else []
    return found


def _rules(here: Variations, lacking: set[str]) -> Steps[list[Alternative]]:
    """Drop rules in turn: of models that lack something, then of others."""
    tries = [
        f"without rule {spec.name}.{rule}"
        for spec in sorted(here.world.specs, key=lambda spec: spec.name not in lacking)
        for rule in rules_of(spec)
        if rule != "max_replicas" or lacking == {spec.name}
    ][:MAX_RULES]
    here.steps += len(tries)
    return (yield from _serving(here, tries, most=MAX_RULES))


def _devices(here: Variations, lacking: set[str]) -> Steps[list[Alternative]]:
    """Return a number of added devices of each kind after which all is served, the cheapest kind
    first: the least one found, by doubling it and then halving the range.
    """
    gpus = [d for d in here.world.devices if d.kind is DeviceKind.GPU]
    prices = {d.hardware: d.price_per_hour for d in reversed(gpus)}
    models = [m for m in here.base.models if m.model in lacking]
    found: list[Alternative] = []
    for kind in sorted(prices, key=lambda k: (prices[k], k))[:MAX_KINDS]:
        helps = all(any(c.hardware == kind for c in model.candidates) for model in models)
        if helps and not here.late():
            found += yield from _least_added(here, kind)
    return found


def _least_added(here: Variations, kind: str) -> Steps[list[Alternative]]:
    low, high, found = 0, 1, list[Alternative]()
    while high - low > 1 or not found:
        if here.late() or high > MAX_MORE:
            break
        added = (low + high) // 2 if found else high
        here.steps += 1
        served = yield from _serving(here, [f"+{added} {kind}"])
        low, high = (low, added) if served else (added, high if found else 2 * high)
        found = served or found
    return found
