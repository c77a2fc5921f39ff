"""Where not everything fits: which demands conflict, and the smallest changes that make all fit."""

import dataclasses
import itertools
import math
from collections.abc import Generator

from partitiond.core.hardware import DeviceKind
from partitiond.core.plan import Infeasible, ModelDemand, Objective, Plan
from partitiond.core.plan_answers import Alternative, Relaxations, figures_of
from partitiond.planner.changes import parse_changes
from partitiond.planner.flow import Outcome, Proving, Solving
from partitiond.planner.found import IMPOSSIBLE
from partitiond.planner.variations import Variations, rules_of
from partitiond.planner.whatif import changed

MAX_PROOFS = 60
"""Fast proofs for the conflict; each takes between a millisecond and a fifth of a second."""
MAX_RULES = 6
"""Rules of models without their place that are dropped in turn."""
MAX_KINDS = 3
MAX_ADDED = 256
RELAX_SHARE = 0.25
"""Of the time limit, for each plan."""
FLOW_SHARE = 3.0
"""Of the time limit, for all of it together: what is under way then is still ended."""
NAMED = 8
"""A conflict of more models is counted, not listed."""
SCALE_STEPS = 3
SCALE_PROOFS = 6
SLACK = 0.999
SLACK_SCALE = 0.99
LEAST_SCALE = 0.01

Found = Generator[Solving | Proving, Outcome | bool, Relaxations]
Proof = Generator[Solving | Proving, Outcome | bool, bool]
Changes = Generator[Solving | Proving, Outcome | bool, list[Alternative]]


def relaxations(here: Variations, outcome: Outcome) -> Found:
    """What a plan that leaves something out could be helped with.

    Args:
        here: the plan of what is, and how to make others.
        outcome: the plan, or why nothing can be placed.
    """
    here.within(FLOW_SHARE * here.base.time_limit_seconds)
    conflict, note = yield from _conflict(here, outcome)
    cheapest: list[Alternative] = []
    if isinstance(outcome, Plan):
        cheapest += _lowered(outcome)
    cheapest += yield from _rules(here, outcome)
    cheapest += yield from _devices(here, outcome)
    cheapest += yield from _scaled(here, outcome)
    if here.late():
        note += "; there was not enough time to try every change that might help"
    return Relaxations(conflict, note, tuple(cheapest))


# --- conflict ----------------------------------------------------------------------------------


class _Proofs:
    """Asks for proofs until there were enough."""

    def __init__(self, here: Variations) -> None:
        self._here = here
        self._request = dataclasses.replace(here.base, objective=Objective.MIN_DEVICES, running=())
        self.asked = 0

    def enough(self) -> bool:
        """Whether no more is asked: there were enough, or the time is over."""
        return self.asked >= MAX_PROOFS or self._here.late()

    def impossible(self, models: tuple[ModelDemand, ...]) -> Proof:
        """Whether these models alone are proven not to fit."""
        if self.enough() or not models:
            return False
        self.asked += 1
        proven = yield Proving(dataclasses.replace(self._request, models=models))
        return proven is True


def _conflict(
    here: Variations, outcome: Outcome
) -> Generator[Solving | Proving, Outcome | bool, tuple[tuple[str, ...], str]]:
    """Models that are proven not to fit together, and of which none could be left out.

    The smallest by leaving out, largest footprints last: that keeps the fewest. A model without
    any candidate is a conflict by itself.
    """
    unable = [m.model for m in here.base.models if not m.candidates]
    if unable:
        more = f"; nor can {len(unable) - 1} more" if len(unable) > 1 else ""
        return (unable[0],), f"it cannot be placed on any device here{more}"
    models = tuple(sorted(here.base.models, key=_weight))
    proofs = _Proofs(here)
    if not (yield from proofs.impossible(models)):
        if isinstance(outcome, Plan) and IMPOSSIBLE in outcome.explanation:
            return (), "all of it together is proven impossible; no smaller conflict was looked for"
        return (), "it is not proven that no plan serves everything"
    chunk = max(1, len(models) // 4)
    while chunk:
        start = 0
        while start < len(models) and not proofs.enough():
            rest = models[:start] + models[start + chunk :]
            if (yield from proofs.impossible(rest)):
                models = rest
            else:
                start += chunk
        chunk //= 2
    names = tuple(m.model for m in models)
    more = "; more of them might be left out" if proofs.enough() else ""
    if len(names) == 1:
        return names, f"what it wants cannot be served here even alone{more}"
    if len(names) > NAMED:
        return names, f"the demands of {len(names)} models do not fit together{more}"
    return names, f"they do not fit together, and any of them left out they might{more}"


def _weight(demand: ModelDemand) -> float:
    """Memory that serving its demand takes at the least."""
    rate = demand.demand.planned_req_per_s or 0.0
    return min(
        max(rate / c.capacity_req_per_s, demand.min_replicas, 1.0) * c.memory_bytes
        for c in demand.candidates
    )


# --- what would help ---------------------------------------------------------------------------


def _lowered(plan: Plan) -> list[Alternative]:
    """The demands that lack something at what the plan gives them: served by the plan as it is."""
    lacking = {u.model for u in plan.unplaced if u.missing_req_per_s}
    given = {f.model: f.capacity_req_per_s for f in plan.forecasts}
    if not lacking or any(not given.get(name) for name in lacking):
        return []
    if any(u.missing_req_per_s is None or u.model not in lacking for u in plan.unplaced):
        return []
    text = "; ".join(f"demand {name}={_down(given[name])}/s" for name in sorted(lacking))
    served = figures_of(plan)
    figures = dataclasses.replace(served, unplaced=(), wanted_req_per_s=served.served_req_per_s)
    return [Alternative(text, figures, note="by the plan as it is")]


def _down(value: float) -> str:
    """Three digits, never above the value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value * SLACK / unit) * unit:.3g}"


def _try(here: Variations, text: str) -> Generator[Solving | Proving, Outcome | bool, Alternative]:
    request = here.request(changed(here.world, parse_changes(text), here.plan), share=RELAX_SHARE)
    return here.compared(text, (yield from here.solve(text, request)))


def _rules(here: Variations, outcome: Outcome) -> Changes:
    """Rules of the models that lack something, dropped in turn."""
    lacking = _lacking(here, outcome)
    tries = [
        f"without rule {spec.name}.{rule}"
        for spec in here.world.specs
        if spec.name in lacking
        for rule in rules_of(spec)
        if rule != "max_replicas" or len(lacking) == 1
    ][:MAX_RULES]
    here.steps += len(tries)
    found = []
    for text in tries:
        if here.late():
            break
        tried = yield from _try(here, text)
        if tried.serves_all:
            found.append(tried)
    return found


def _lacking(here: Variations, outcome: Outcome) -> set[str]:
    if isinstance(outcome, Infeasible):
        return {spec.name for spec in here.world.specs}
    return {u.model for u in outcome.unplaced}


def _devices(here: Variations, outcome: Outcome) -> Changes:
    """The least number of further devices of each kind, cheapest kind first.

    Numbers that are proven too few are passed over without a plan.
    """
    prices: dict[str, float] = {}
    for device in here.world.devices:
        if device.kind is DeviceKind.GPU:
            prices.setdefault(device.hardware, device.price_per_hour)
    found = []
    for kind in sorted(prices, key=lambda k: (prices[k], k))[:MAX_KINDS]:
        if here.late() or not _could_help(here, outcome, kind):
            continue
        added = yield from _least_added(here, kind)
        found += [added] if added is not None else []
    return found


def _could_help(here: Variations, outcome: Outcome, kind: str) -> bool:
    """Whether each model that lacks something has a candidate there."""
    models = {m.model: m for m in here.base.models}
    return all(
        any(c.hardware == kind for c in models[name].candidates)
        for name in _lacking(here, outcome)
        if name in models
    )


def _least_added(
    here: Variations, kind: str
) -> Generator[Solving | Proving, Outcome | bool, Alternative | None]:
    def too_few(count: int) -> Proof:
        world = changed(here.world, parse_changes(f"+{count} {kind}"))
        request = here.request(world, share=RELAX_SHARE)
        proven = yield Proving(
            dataclasses.replace(request, objective=Objective.MIN_DEVICES, running=())
        )
        return proven is True

    high = 1
    while high <= MAX_ADDED and not here.late() and (yield from too_few(high)):
        high *= 2
    if high > MAX_ADDED or here.late():
        return None
    low = high // 2
    while high - low > 1 and not here.late():
        middle = (low + high) // 2
        if (yield from too_few(middle)):
            low = middle
        else:
            high = middle
    here.steps += 1
    for extra in itertools.chain((0, 1, 2), (4, 8, 16)):
        if here.late():
            break
        tried = yield from _try(here, f"+{high + extra} {kind}")
        if tried.serves_all:
            return tried
    return None


def _scaled(here: Variations, outcome: Outcome) -> Changes:
    """The largest common share of all demands that is found to be served.

    Proofs narrow it from above first: they are faster than plans.
    """
    if isinstance(outcome, Infeasible) or figures_of(outcome).wanted_req_per_s <= 0:
        return []
    rated = [f for f in outcome.forecasts if f.demand_req_per_s]
    low = min(min(1.0, f.capacity_req_per_s / (f.demand_req_per_s or 1.0)) for f in rated)
    high, proven_low = 1.0, low
    for _ in range(SCALE_PROOFS):
        if here.late():
            break
        factor = (proven_low + high) / 2
        world = changed(here.world, parse_changes(f"demand *{factor:.4g}"))
        request = dataclasses.replace(
            here.request(world), objective=Objective.MIN_DEVICES, running=()
        )
        if (yield Proving(request)) is True:
            high = factor
        else:
            proven_low = factor
    best, least, most = None, low, high
    here.steps += SCALE_STEPS
    for number in range(SCALE_STEPS):
        if here.late():
            break
        factor = most * SLACK_SCALE if number == 0 else (least + most) / 2
        tried = yield from _try(here, f"demand *{factor:.3g}")
        if tried.serves_all:
            best, least = tried, factor
        else:
            most = factor
        if best is not None and number == 0:
            break
    if best is None and low > LEAST_SCALE and not here.late():
        tried = yield from _try(here, f"demand *{_down(low)}")
        best = tried if tried.serves_all else None
    return [] if best is None else [best]
