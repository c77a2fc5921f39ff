"""Why one model has the place it has: why here, why not one more; its next best are solved for."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence

from partitiond.core.errors import InputError
from partitiond.core.hardware import Device, SharingMode
from partitiond.core.plan import Candidate, Infeasible, ModelDemand, Plan
from partitiond.core.plan_answers import ModelExplanation, SizeChoice
from partitiond.core.units import format_bytes
from partitiond.planner.changes import suggestion
from partitiond.planner.room_for import (
    Blocker,
    Neighbours,
    blocker,
    most_alone,
    room_bytes,
    slices_blocker,
)
from partitiond.planner.types import PlanRequest

NAMED = 3
"""Devices named in a sentence; the rest is counted."""
CLOSE = 0.98
"""Sizes within this of the best per device count as as good."""


def check_model(request: PlanRequest, name: str) -> ModelDemand:
    """The demand of that model. Raises InputError: there is none."""
    found = next((m for m in request.models if m.model == name), None)
    if found is None:
        names = [m.model for m in request.models]
        raise InputError(f"there is no model {name!r} to explain.", hint=suggestion(name, names))
    return found


def explain_model(request: PlanRequest, plan: Plan, name: str) -> ModelExplanation:
    """Why the plan gives the model what it gives. Raises InputError for an unknown model."""
    demand = check_model(request, name)
    mine = [p for p in plan.placements if p.model == name]
    chosen = collections.Counter(p.candidate for p in mine)
    sizes = tuple(_sizes(request, demand, chosen))
    return ModelExplanation(
        model=name,
        here=tuple(_here(plan, demand, sizes, chosen)),
        not_more=tuple(_not_more(request, plan, demand)),
        sizes=sizes,
    )


def explain_none(request: PlanRequest, outcome: Infeasible, name: str) -> ModelExplanation:
    """Why a model has no place where nothing has one. Raises InputError for an unknown model."""
    sizes = tuple(_sizes(request, check_model(request, name), collections.Counter()))
    named = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    own = tuple(reason for reason in outcome.reasons if named.search(reason))
    return ModelExplanation(
        model=name,
        here=("It has no place: there is no plan at all.", *(own or outcome.reasons)),
        not_more=(),
        sizes=sizes,
    )


# --- sizes -------------------------------------------------------------------------------------


def _sizes(
    request: PlanRequest, demand: ModelDemand, chosen: "collections.Counter[Candidate]"
) -> Iterator[SizeChoice]:
    kinds = {device.hardware: device for device in reversed(request.devices)}
    found = []
    for candidate in demand.candidates:
        there = candidate.hardware in kinds
        found.append((_most(request, demand, candidate) if there else 0.0, candidate))
    best: dict[str, float] = collections.defaultdict(float)
    for per_device, candidate in found:
        best[candidate.hardware] = max(best[candidate.hardware], per_device)
    found.sort(key=lambda row: (-row[0], row[1].memory_bytes))
    for per_device, c in found:
        device = kinds.get(c.hardware)
        if device is None:
            note = f"there is no {c.hardware}"
        elif per_device <= 0:
            note = _why_never(c, device, demand)
        else:
            note = _worth(per_device / best[c.hardware], chosen[c])
        yield SizeChoice(
            size=c.size.key,
            hardware=c.hardware,
            batch=c.batch,
            variant=c.variant,
            memory_bytes=c.memory_bytes,
            req_per_s=c.capacity_req_per_s,
            per_device_req_per_s=per_device,
            ttft_p95_seconds=c.ttft_p95_seconds,
            tpot_p95_seconds=c.tpot_p95_seconds,
            replicas=chosen[c],
            note=note,
        )


def _most(request: PlanRequest, demand: ModelDemand, candidate: Candidate) -> float:
    """Requests/s on the best of the devices that differ in what they have free."""
    alike = {
        (d.free_bytes, len(d.cores), d.modes, d.cordoned, d.mig_instances, d.mig_fixed): d
        for d in request.devices
        if d.hardware == candidate.hardware
    }
    return max(
        most_alone(device, demand, candidate, request.interference)[1] for device in alike.values()
    )


def _worth(share: float, count: int) -> str:
    worth = "best per device" if share >= CLOSE else f"{share:.0%} of the best"
    return f"chosen {count}x; {worth}" if count else worth


def _why_never(c: Candidate, device: Device, demand: ModelDemand) -> str:
    slo = demand.slo
    if c.size.mode not in device.modes:
        return f"{device.hardware} does not allow {c.size.mode} here"
    if slo is not None and (
        c.ttft_p95_seconds > slo.ttft_seconds or c.tpot_p95_seconds > slo.tpot_seconds
    ):
        return "misses its SLO even alone"
    if c.size.mode is SharingMode.MIG:
        stop = slices_blocker(device, (), c)
        return stop.what if stop is not None else "fits no empty device under its rules"
    if c.memory_bytes > room_bytes(device, c.size.mode):
        return f"needs more than the {format_bytes(room_bytes(device, c.size.mode))} there are"
    if c.size.cores > len(device.cores) and device.cores:
        return f"needs {c.size.cores} cores, a device has {len(device.cores)}"
    return "fits no empty device under its rules"


# --- why here ----------------------------------------------------------------------------------


def _here(
    plan: Plan,
    demand: ModelDemand,
    sizes: Sequence[SizeChoice],
    chosen: "collections.Counter[Candidate]",
) -> Iterator[str]:
    if not chosen:
        told = [u.reason for u in plan.unplaced if u.model == demand.model]
        yield from told or [f"{demand.model} has no replica in this plan."]
        return
    forecast = next((f for f in plan.forecasts if f.model == demand.model), None)
    wanted = demand.demand.planned_req_per_s
    if forecast is not None:
        count = sum(chosen.values())
        goal = "as much as there is" if wanted is None else f"{_rate(wanted)} wanted"
        yield (
            f"{_many(count, 'replica')} {'gives' if count == 1 else 'give'} "
            f"{_rate(forecast.capacity_req_per_s)} requests/s as planned, {goal}."
        )
    usable = [s for s in sizes if s.per_device_req_per_s > 0]
    for candidate, count in chosen.most_common():
        yield _why_size(candidate, count, usable)
    yield from _where(plan, demand.model)


def _why_size(candidate: Candidate, count: int, usable: Sequence[SizeChoice]) -> str:
    head = f"{candidate.size.key} at batch {candidate.batch}"
    head += f" as {candidate.variant}" if candidate.variant else ""
    mine = next(
        (s for s in usable if s.size == candidate.size.key and s.replicas == count and
         s.batch == candidate.batch and s.hardware == candidate.hardware),
        None,
    )  # fmt: skip
    if len(usable) <= 1 or mine is None:
        return f"{head}: no other size of it can be used."
    beside = [s for s in usable if s.hardware == mine.hardware]
    best = max(s.per_device_req_per_s for s in beside)
    if mine.per_device_req_per_s >= CLOSE * best:
        return (
            f"{head}: a device full of it serves {_rate(mine.per_device_req_per_s)} requests/s, "
            f"which none of its {len(beside)} sizes beats."
        )
    return (
        f"{head}: a device full of it serves {_rate(mine.per_device_req_per_s)} requests/s and "
        f"the best size {_rate(best)}, but this one takes less ({format_bytes(mine.memory_bytes)}"
        f"{_sm(candidate)}) and fits beside the others."
    )


def _sm(candidate: Candidate) -> str:
    return f", {candidate.size.sm_percent} % of the SMs" if candidate.size.sm_percent < 100 else ""


def _where(plan: Plan, name: str) -> Iterator[str]:
    devices = [d for d in plan.devices if any(p.model == name for p in plan.on_device(d.id))]
    for device in devices[:NAMED]:
        others = collections.Counter(p.model for p in plan.on_device(device.id))
        own = others.pop(name)
        beside = ", ".join(f"{n}x {m}" if n > 1 else m for m, n in sorted(others.items()))
        company = f"beside {beside}" if beside else "alone"
        yield f"{device.short_id}: {own}x {company}, {_full(plan, device)}."
    if len(devices) > NAMED:
        yield f"... and on {len(devices) - NAMED} more devices."


def _full(plan: Plan, device: Device) -> str:
    here = plan.on_device(device.id)
    used = sum(p.partition.memory_bytes for p in here)
    room = max(1, room_bytes(device, here[0].partition.mode))
    text = f"memory {used / room:.0%} full"
    percent = sum(p.candidate.size.sm_percent for p in here if p.partition.mode == "mps")
    return f"{text}, SMs {percent} % given away" if percent else text


# --- why not one more --------------------------------------------------------------------------


def _not_more(request: PlanRequest, plan: Plan, demand: ModelDemand) -> Iterator[str]:
    count = sum(p.model == demand.model for p in plan.placements)
    wanted = demand.demand.planned_req_per_s
    forecast = next((f for f in plan.forecasts if f.model == demand.model), None)
    given = 0.0 if forecast is None else forecast.capacity_req_per_s
    if wanted is not None and given >= wanted * (1 - 1e-6):
        yield "No more is needed: its planned demand is served."
    if demand.max_replicas is not None and count >= demand.max_replicas:
        yield f"It may have at most {_many(demand.max_replicas, 'replica')} (max_replicas)."
    around = _around(request, plan)
    used = [d for d in plan.devices if plan.on_device(d.id)]
    free = [d for d in plan.devices if not plan.on_device(d.id) and not d.cordoned]
    yield from _in_use(used, demand, around)
    yield from _empty(free, demand, around)


def _around(request: PlanRequest, plan: Plan) -> Neighbours:
    spare = {
        f.model: float("inf")
        if f.demand_req_per_s is None
        else max(0.0, f.capacity_req_per_s - f.demand_req_per_s)
        for f in plan.forecasts
    }
    return Neighbours(
        held={d.id: plan.on_device(d.id) for d in plan.devices},
        demands={m.model: m for m in request.models},
        spare=spare,
        interference=request.interference,
    )


def _in_use(used: Sequence[Device], demand: ModelDemand, around: Neighbours) -> Iterator[str]:
    fits: list[tuple[Device, Candidate]] = []
    stops: dict[str, list[Blocker]] = collections.defaultdict(list)
    for device in used:
        found = [(c, blocker(device, c, around)) for c in demand.candidates]
        room = [c for c, stop in found if stop is None]
        if room:
            fits.append((device, max(room, key=lambda c: c.capacity_req_per_s)))
            continue
        stop = _smallest(device, around, found)
        if stop is not None:
            stops[stop.kind].append(stop)
    if fits:
        device, candidate = max(fits, key=lambda f: f[1].capacity_req_per_s)
        yield (
            f"One more would fit on {len(fits)} of the {len(used)} devices in use: as "
            f"{candidate.size.key} on {device.short_id} (+{_rate(candidate.capacity_req_per_s)} "
            "requests/s alone)."
        )
    for kind, reasons in sorted(stops.items(), key=lambda pair: -len(pair[1])):
        closest = min(reasons, key=lambda b: b.lacking)
        yield f"{_word(kind)} on {_many(len(reasons), 'device')} in use: {closest.what}."


def _smallest(
    device: Device, around: Neighbours, found: Sequence[tuple[Candidate, Blocker | None]]
) -> Blocker | None:
    """What stops the smallest size in the mode that the device is run in: it stops the larger."""
    here = around.held.get(device.id, ())
    mode = here[0].partition.mode if here else None
    same = [pair for pair in found if pair[0].size.mode is mode] or list(found)
    smallest = min(
        same, key=lambda pair: (pair[0].size.sm_percent, pair[0].memory_bytes), default=None
    )
    return None if smallest is None else smallest[1]


def _word(kind: str) -> str:
    """A reason as the opening of a sentence."""
    words = {
        "memory": "Too little memory",
        "SMs": "Too few SMs",
        "cores": "Too few cores",
        "slices": "No MIG slice left",
        "mode": "Another sharing mode",
        "hardware": "No profile for the hardware",
        "interference": "Too much interference",
        "isolation": "Isolation",
        "avoid": "A rule (avoid)",
        "only_on": "A rule (only_on)",
        "replicas": "The device's own limit",
        "cordoned": "Cordoned",
    }
    return words.get(kind, kind.capitalize())


def _empty(free: Sequence[Device], demand: ModelDemand, around: Neighbours) -> Iterator[str]:
    able = [d for d in free if any(blocker(d, c, around) is None for c in demand.candidates)]
    if able:
        yield (
            f"{_many(len(able), 'device')} in no use could take it: one more replica there costs "
            "a device more."
        )
    elif free:
        yield f"None of the {len(free)} devices in no use can hold it."
    else:
        yield "No device is empty."


# --- the next best ----------------------------------------------------------------------------


def next_best(demand: ModelDemand, plan: Plan) -> list[tuple[str, ModelDemand]]:
    """Changed demands of the model whose plans show what its place is worth, with their titles."""
    mine = [p for p in plan.placements if p.model == demand.model]
    count = len(mine)
    found: list[tuple[str, ModelDemand]] = []
    chosen = {p.candidate.size.key for p in mine}
    for key in sorted(chosen)[:NAMED]:
        rest = tuple(c for c in demand.candidates if c.size.key != key)
        if rest and len(rest) < len(demand.candidates):
            found.append((f"not as {key}", dataclasses.replace(demand, candidates=rest)))
    if demand.max_replicas is None or count < demand.max_replicas:
        more = dataclasses.replace(demand, min_replicas=count + 1)
        found.append((f"{_many(count + 1, 'replica')} instead of {count}", more))
    if count > 1 and count > demand.min_replicas:
        fewer = dataclasses.replace(demand, max_replicas=count - 1)
        found.append((f"{_many(count - 1, 'replica')} instead of {count}", fewer))
    return found


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
