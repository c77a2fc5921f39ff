"""Explains one model's place: why here, why not one more."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from partitiond.core.hardware.kinds import Device
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.plan.answers import ModelExplanation, SizeChoice
from partitiond.core.plan.record import MAY_LACK, Candidate, Infeasible, ModelDemand, Plan
from partitiond.core.units import format_bytes
from partitiond.planner.answers.words import CLOSE, KINDS, counted, figure
from partitiond.planner.check.fault import Fault
from partitiond.planner.check.fits import Fits, most_alone
from partitiond.planner.model.pools import usable_bytes
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Outcome

NAMED = 3
"""Number of devices named in a sentence; further devices are only counted."""


def explain_model(request: PlanRequest, outcome: Outcome, demand: ModelDemand) -> ModelExplanation:
    """Explain why a model gets its place, or none."""
    name = demand.model
    if isinstance(outcome, Infeasible):
        sizes = _sizes(request, demand, collections.Counter())
        named = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
        own = [reason for reason in outcome.reasons if named.search(reason)]
        here = ("It has no place: there is no plan at all.", *(own or outcome.reasons))
        return ModelExplanation(name, here, (), tuple(sizes.values()))
    chosen = collections.Counter(p.candidate for p in outcome.placements if p.model == name)
    sizes = _sizes(request, demand, chosen)
    here = tuple(_here(outcome, demand, sizes, chosen))
    not_more = tuple(_not_more(request, outcome, demand))
    return ModelExplanation(name, here, not_more, tuple(sizes.values()))


def _sizes(
    request: PlanRequest, demand: ModelDemand, chosen: "collections.Counter[Candidate]"
) -> dict[Candidate, SizeChoice]:
    """Return each size's rate and what is for or against it, the best per device first."""
    most = dict[Candidate, float]()
    best = collections.defaultdict[str, float](float)
    levels, memory = request.interference, dict(request.host_memory_bytes)
    alone = Fits(request.devices, {demand.model: demand}, levels, memory, near=False)
    on_kind = by_key((device.hardware, device) for device in alone.unlike(demand))
    for c in demand.candidates:
        each = (most_alone(d, demand, c, levels, memory) for d in on_kind[c.hardware])
        most[c] = max(each, default=0.0)
        best[c.hardware] = max(best[c.hardware], most[c])
    kinds = {c.hardware for c in most if most[c] > 0}
    found = {}
    for c in sorted(most, key=lambda c: (-most[c], c.memory_bytes)):
        if most[c] > 0:
            share = most[c] / best[c.hardware]
            best_of = "best there" if len(kinds) > 1 else "best per device"
            note = best_of if share >= CLOSE else f"{share:.0%} of {best_of}"
            note = f"chosen {chosen[c]}x; {note}" if chosen[c] else note
        else:
            one, there = dataclasses.replace(demand, candidates=(c,)), on_kind[c.hardware]
            stop = alone.closest(there, one) if there else None
            note = f"there is no {c.hardware}" if stop is None else stop.text
        found[c] = SizeChoice(
            size=c.size.key,
            hardware=c.hardware,
            batch=c.batch,
            variant=c.variant,
            memory_bytes=c.memory_bytes,
            req_per_s=c.capacity_req_per_s,
            per_device_req_per_s=most[c],
            ttft_p95_seconds=c.ttft_p95_seconds,
            tpot_p95_seconds=c.tpot_p95_seconds,
            replicas=chosen[c],
            note=note,
        )
    return found


def _here(
    plan: Plan,
    demand: ModelDemand,
    sizes: Mapping[Candidate, SizeChoice],
    chosen: "collections.Counter[Candidate]",
) -> Iterator[str]:
    if not chosen:
        told = [u.reason for u in plan.unplaced if u.model == demand.model]
        yield from told or [f"{demand.model} has no replica in this plan."]
        return
    given = next(f.capacity_req_per_s for f in plan.forecasts if f.model == demand.model)
    wanted, count = demand.demand.planned_req_per_s, chosen.total()
    goal = "as much as there is" if wanted is None else f"{figure(wanted)} wanted"
    yield (
        f"{counted(count, 'replica')} {'gives' if count == 1 else 'give'} {figure(given)} "
        f"requests/s as planned, {goal}."
    )
    for candidate, _ in chosen.most_common():
        yield _why_size(candidate, sizes)
    yield from _where(plan, demand.model)


def _why_size(candidate: Candidate, sizes: Mapping[Candidate, SizeChoice]) -> str:
    head = f"{candidate.size.key} at batch {candidate.batch}"
    head += f" as {candidate.variant}" if candidate.variant else ""
    usable = [s for s in sizes.values() if s.per_device_req_per_s > 0]
    beside = [s for s in usable if s.hardware == candidate.hardware]
    if len(usable) <= 1 or candidate not in sizes:
        return f"{head}: no other size of it can be used."
    if len({s.hardware for s in usable}) > 1:
        head += f" on {candidate.hardware}"
    serves = sizes[candidate].per_device_req_per_s
    head += f": a device full of it serves {figure(serves)} requests/s"
    best = max(beside, key=lambda s: s.per_device_req_per_s, default=sizes[candidate])
    if serves >= CLOSE * best.per_device_req_per_s:
        return f"{head}; no size of it serves noticeably more there."
    return (
        f"{head}, full of the best size there, {best.size} at batch {best.batch}, "
        f"{figure(best.per_device_req_per_s)}; this one takes "
        f"{format_bytes(candidate.memory_bytes)}, that one {format_bytes(best.memory_bytes)}."
    )


def _where(plan: Plan, name: str) -> Iterator[str]:
    devices = [d for d in plan.devices if any(p.model == name for p in plan.on_device(d.id))]
    for device in devices[:NAMED]:
        here = plan.on_device(device.id)
        others = collections.Counter(p.model for p in here)
        own = others.pop(name)
        beside = ", ".join(f"{n}x {m}" if n > 1 else m for m, n in sorted(others.items()))
        company = f"beside {beside}" if beside else "alone"
        room = max(1, usable_bytes(device) - mode_overhead_bytes(here[0].partition.mode))
        full = f"memory {sum(p.partition.memory_bytes for p in here) / room:.0%} full"
        percent = sum(p.candidate.size.sm_percent for p in here if p.partition.mode == "mps")
        full += f", SMs {percent} % given away" if percent else ""
        yield f"{device.short_id}: {own}x {company}, {full}."
    if len(devices) > NAMED:
        yield f"... and on {len(devices) - NAMED} more devices."


def _not_more(request: PlanRequest, plan: Plan, demand: ModelDemand) -> Iterator[str]:
    count = sum(p.model == demand.model for p in plan.placements)
    wanted = demand.demand.planned_req_per_s
    given = next(f.capacity_req_per_s for f in plan.forecasts if f.model == demand.model)
    if wanted is not None and given >= wanted * (1 - MAY_LACK):
        yield "No more is needed: its planned demand is served."
    if demand.max_replicas is not None and count >= demand.max_replicas:
        yield f"It may have at most {counted(demand.max_replicas, 'replica')} (max_replicas)."
    held = {p.device_id for p in plan.placements}
    fits = Fits(
        plan.devices,
        {m.model: m for m in request.models},
        request.interference,
        dict(request.host_memory_bytes),
        placements=plan.placements,
        rates={f.model: f.capacity_req_per_s for f in plan.forecasts},
    )
    one_more = dataclasses.replace(demand, max_replicas=None)
    yield from _in_use([d for d in plan.devices if d.id in held], one_more, fits)
    free = [d for d in plan.devices if d.id not in held and not d.cordoned]
    able = sum(fits.closest([device], one_more) is None for device in free)
    if able:
        what = f"{counted(able, 'device')} in no use could take it"
        yield f"{what}: one more replica there costs a device more."
    elif free:
        yield f"None of the {len(free)} devices in no use can hold it."
    else:
        yield "No device is empty."


def _in_use(used: Sequence[Device], demand: ModelDemand, fits: Fits) -> Iterator[str]:
    stops = [fits.closest([device], demand) for device in used]
    free = [device for device, stop in zip(used, stops, strict=True) if stop is None]
    if free:
        pairs = ((c, d) for d in free for c in demand.candidates)
        able = (pair for pair in pairs if not isinstance(fits.place(*pair), Fault))
        candidate, device = max(able, key=lambda pair: pair[0].capacity_req_per_s)
        yield (
            f"One more would fit on {len(free)} of the {len(used)} devices in use: as "
            f"{candidate.size.key} on {device.short_id} (+{figure(candidate.capacity_req_per_s)} "
            "requests/s alone)."
        )
    there = [stop for stop in stops if stop is not None]
    for kind, count in collections.Counter(stop.kind for stop in there).most_common():
        nearest = min((s for s in there if s.kind is kind), key=lambda stop: stop.excess)
        yield f"{KINDS[kind][0]} on {counted(count, 'device')} in use: {nearest.text}."
