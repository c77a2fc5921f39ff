"""Finds conflicting demands and the smallest changes after which a plan serves everything."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.plan.answers import Alternative, Relaxations
from partitiond.core.plan.record import ModelDemand, Plan
from partitiond.planner.answers.changes import world_under
from partitiond.planner.answers.variations import Variations
from partitiond.planner.answers.whatif import rules_of
from partitiond.planner.pack.flow import Outcome, Steps
from partitiond.planner.progress.answer import IMPOSSIBLE

MAX_PROOFS = 60
"""Limit on quick proofs for the conflict, each of a millisecond to a fifth of a second. Chosen."""
MAX_RULES = 6
"""Limit on rules of unserved models that are dropped in turn. Chosen, not measured."""
MAX_KINDS, MAX_ADDED = 3, 256
RELAX_SHARE = 0.25
"""Share of the time limit for each plan. Chosen, not measured."""
FLOW_SHARE = 3.0
"""Multiple of the limit for all changes together; a plan in progress is finished. Chosen."""
NAMED = 8
"""A conflict of more models than this is reported as a number, not as a list. Chosen."""
SLACK = 0.999
HALVINGS = 4
"""Plans made to find that share. Chosen: three after the first one narrow it to an eighth."""
LEAST_SCALE = 0.01
"""A smaller share of the demands is not proposed; SLACK rounds shares down. Both are chosen."""


def relaxations(here: Variations, outcome: Outcome) -> Steps[Relaxations]:
    """Find what would help if a plan leaves something out, or if there is no plan at all."""
    here.within(FLOW_SHARE * here.base.time_limit_seconds)
    conflict, note = yield from _conflict(here, outcome)
    lacking = {spec.name for spec in here.world.specs}
    cheapest: list[Alternative] = []
    if isinstance(outcome, Plan):
        lacking = {u.model for u in outcome.unplaced}
        cheapest += yield from _lowered(here, outcome)
    cheapest += yield from _rules(here, lacking, conflict)
    cheapest += yield from _devices(here, lacking)
    if isinstance(outcome, Plan):
        cheapest += yield from _scaled(here, outcome)
    if here.late():
        note += "; there was not enough time to try every change that might help"
    return Relaxations(conflict, note, tuple(cheapest))


def _conflict(here: Variations, outcome: Outcome) -> Steps[tuple[tuple[str, ...], str]]:
    """Return models that are proven not to fit together, of which none could be left out.

    Models are left out in turn, those with the largest footprints last, which keeps the fewest. A
    model without any candidate is a conflict by itself.
    """
    unable = [m.model for m in here.base.models if not m.candidates]
    if unable:
        more = f"; nor can {len(unable) - 1} more" if len(unable) > 1 else ""
        return (unable[0],), f"it cannot be placed on any device here{more}"
    models = tuple(sorted(here.base.models, key=_weight))
    if not models or not (yield from here.impossible(here.base)):
        if isinstance(outcome, Plan) and IMPOSSIBLE in outcome.explanation:
            return (), "all of it together is proven impossible; no smaller conflict was looked for"
        return (), "it is not proven that no plan serves everything"
    asked, chunk, start = 1, max(1, len(models) // 4), 0
    while chunk and asked < MAX_PROOFS and not here.late():
        rest = models[:start] + models[start + chunk :]
        asked += 1
        alone = dataclasses.replace(here.base, models=tuple(_alone(rest, here.base.models)))
        if rest and (yield from here.impossible(alone)):
            models = rest
        else:
            start += chunk
        if start >= len(models):
            chunk, start = chunk // 2, 0
    names = tuple(m.model for m in models)
    more = "; perhaps a part of them already conflicts" if chunk else ""
    if len(names) == 1:
        return names, f"its demand cannot be served here even if it is alone{more}"
    if len(names) > NAMED:
        return names, f"the demands of {len(names)} models do not fit together{more}"
    return (
        names,
        f"they do not fit together; leaving any one of them out might make the rest fit{more}",
    )


def _alone(rest: Sequence[ModelDemand], models: Iterable[ModelDemand]) -> Iterator[ModelDemand]:
    """Yield the rest, without `near` to models left out, which alone would prevent a placement."""
    gone = {m.model for m in models} - {m.model for m in rest}
    for m in rest:
        near = tuple(name for name in m.rules.near if name not in gone)
        yield dataclasses.replace(m, rules=dataclasses.replace(m.rules, near=near))


def _weight(demand: ModelDemand) -> float:
    """Return a lower bound on the memory that serving the demand takes."""
    rate = demand.demand.planned_req_per_s or 0.0
    return min(
        max(rate / c.capacity_req_per_s, demand.min_replicas, 1.0) * c.memory_bytes
        for c in demand.candidates
    )


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
        tried = yield from here.tried(text, share=RELAX_SHARE)
        found += [tried] if tried.serves_all else []
    return found


def _rules(
    here: Variations, lacking: set[str], conflict: Collection[str]
) -> Steps[list[Alternative]]:
    """Drop rules in turn: of models that lack something, and of models that conflict with them."""
    specs = [spec for spec in here.world.specs if spec.name in lacking.union(conflict)]
    tries = [
        f"without rule {spec.name}.{rule}"
        for spec in sorted(specs, key=lambda spec: spec.name not in lacking)
        for rule in rules_of(spec)
        if rule != "max_replicas" or lacking == {spec.name}
    ][:MAX_RULES]
    here.steps += len(tries)
    return (yield from _serving(here, tries, most=MAX_RULES))


def _devices(here: Variations, lacking: set[str]) -> Steps[list[Alternative]]:
    """Return the least number of added devices of each kind that could hold all unserved models,
    the cheapest kind first. Numbers proven too small are skipped without making a plan.
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
    low, high = 0, MAX_ADDED + 1
    while high - low > 1 and not here.late():
        # A few devices are mostly enough, and small numbers are proven faster.
        middle = min((low + high) // 2, 2 * low + 1)
        world = world_under(f"+{middle} {kind}", here.world)
        few = yield from here.impossible(here.request(world))
        low, high = (middle, high) if few else (low, middle)
    if high > MAX_ADDED or here.late():
        return []
    here.steps += 1
    return (yield from _serving(here, [f"+{high + more} {kind}" for more in (0, 1, 2, 4, 8, 16)]))


def _scaled(here: Variations, plan: Plan) -> Steps[list[Alternative]]:
    """Return the largest common share of all demands that is found to be served, by halving the
    range between the share that the present plan serves and all of it.
    """
    given = [
        f.capacity_req_per_s / f.demand_req_per_s for f in plan.forecasts if f.demand_req_per_s
    ]
    if not given:
        return []
    low, high, found = min(given), 1.0, list[Alternative]()
    here.steps += HALVINGS
    for tried in range(HALVINGS):
        share = low if tried == 0 else (low + high) / 2
        served = share >= LEAST_SCALE and (yield from _serving(here, [f"demand *{_down(share)}"]))
        low, high = (share, high) if served or tried == 0 else (low, share)
        found = served or found
    return found
