"""Why each model got what it got, what is unplaced and why, and what would help."""

import collections
import math
from collections.abc import Iterator

from partitiond.core.hardware import DeviceKind, SharingMode
from partitiond.core.plan import Infeasible, ModelDemand, Objective, Placement, Status, Unplaced
from partitiond.core.profile import RATE_MARGIN, ProfileKind
from partitiond.core.units import format_bytes
from partitiond.planner.exact import reference_rate
from partitiond.planner.instance import RATE_SCALE, Instance, Need
from partitiond.planner.packing import Packing
from partitiond.planner.pools import usable_mib
from partitiond.planner.portfolio import Found

FULL = 0.9
"""A device's resource counts as full from here on."""


def explain(instance: Instance, found: Found, placements: tuple[Placement, ...]) -> tuple[str, ...]:
    """Sentences for a reader, the summary first."""
    lines = [_summary(instance, found), *_why_partial(found)]
    by_model: dict[str, list[Placement]] = collections.defaultdict(list)
    for p in placements:
        by_model[p.model].append(p)
    for need in instance.needs:
        if by_model[need.name]:
            lines.append(_model_line(instance, found.packing, need, by_model[need.name]))
    lines.extend(_device_lines(found.packing))
    lines.extend(_variants(placements))
    lines.extend(_provisional(placements))
    lines.extend(_stale(placements))
    return tuple(lines)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _number(value: float, digits: int = 3) -> str:
    """So many significant digits, but large numbers whole and grouped, never as 1e+05."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _summary(instance: Instance, found: Found) -> str:
    used, total = len(found.packing.used()), len(instance.group_of)
    replicas = sum(found.packing.counts.values())
    head = (
        f"{_count(replicas, 'replica')} of {_count(len(instance.needs), 'model')} "
        f"on {used} of {_count(total, 'device')}"
    )
    value, bound = _number(found.value, 4), _number(found.bound, 4)
    if found.objective is Objective.MIN_DEVICES:
        if _unit_prices(instance):
            tail = f"no plan needs fewer than {bound}"
        else:
            tail = f"the price is {value} per hour, no plan's is below {bound}"
    else:
        tail = f"{value} weighted requests/s, no plan gives more than {bound}"
    proof = "proven optimal" if found.status is Status.OPTIMAL else "not proven optimal"
    return f"{head}: {tail} ({proof})."


def _unit_prices(instance: Instance) -> bool:
    return all(d.price_per_hour == 1.0 for d in instance.request.devices)


def _why_partial(found: Found) -> Iterator[str]:
    if found.proven_impossible is True:
        yield "Serving everything is proven impossible on these devices; this serves the most."
    elif found.proven_impossible is False:
        yield (
            "No plan that serves everything was found in the time given, and none is proven "
            "impossible; this serves the most that was found."
        )


def _model_line(
    instance: Instance, packing: Packing, need: Need, placements: list[Placement]
) -> str:
    rate = packing.rates[need.model] / RATE_SCALE
    if need.rated:
        wanted = need.rate / RATE_SCALE
        spare = rate / wanted - 1
        fit = f"{_number(rate)} requests/s for {_number(wanted)} wanted"
        fit += f" ({spare:.0%} to spare)" if spare >= 0.005 else ""
        fit += f" ({-spare:.0%} short)" if spare <= -0.005 else ""
    else:
        fit = f"{_number(rate)} requests/s, as much as there is"
    why = _why_size(instance, need, placements)
    return f"{need.name}: {_count(len(placements), 'replica')}, {fit}; {why}."


def _why_size(instance: Instance, need: Need, placements: list[Placement]) -> str:
    """What speaks for the chosen size: the most per device, or that less would not do."""
    per_device = {}
    for item in (i for i in instance.items if i.model == need.model):
        per_device[item.candidate] = _per_device(instance, item.index)
    chosen = placements[0].candidate
    best = max(per_device.values(), default=0.0)
    mine = per_device.get(chosen, 0.0)
    sizes = len(per_device)
    if sizes <= 1:
        return "it has one size only"
    if mine >= 0.98 * best:
        return f"none of its {sizes} sizes serves more per device"
    wanted = need.rate / RATE_SCALE
    if need.rated and chosen.capacity_req_per_s * len(placements) >= wanted:
        smaller = [
            c
            for c in per_device
            if c.memory_bytes < chosen.memory_bytes and c.capacity_req_per_s >= wanted
        ]
        if not smaller:
            return f"no smaller one of its {sizes} sizes covers the demand alone"
    return f"chosen from {sizes} sizes to fit beside the others"


def _per_device(instance: Instance, index: int) -> float:
    item = instance.items[index]
    best = 0.0
    for group in instance.groups:
        for option, fit in zip(group.options, group.fits, strict=True):
            if index in fit:
                limits = [option.max_items, group.memory_mib // max(1, item.memory_mib)]
                limits += [100 // item.sm] if item.sm else []
                limits += [group.cores // item.cores] if group.cores and item.cores else []
                best = max(best, min(limits) * instance.rate(index, option))
    return best


def _device_lines(packing: Packing) -> Iterator[str]:
    levels = collections.Counter(packing.option(index).level for index in packing.used())
    shared = [f"{n} at {level:g}" for level, n in sorted(levels.items()) if level > 1]
    if shared:
        yield (
            "Replicas that share a device slow each other down; every rate there is divided by "
            f"the device's level of interference: {', '.join(shared)}."
        )


def _provisional(placements: tuple[Placement, ...]) -> Iterator[str]:
    kinds = {p.candidate.profile_kind for p in placements}
    for kind in (ProfileKind.ESTIMATED, ProfileKind.TRANSFERRED):
        if kind in kinds:
            models = sorted({p.model for p in placements if p.candidate.profile_kind is kind})
            yield (
                f"{kind.value.capitalize()}, not measured, and planned with a rate margin of "
                f"{RATE_MARGIN[kind]:.0%}: {', '.join(models)}."
            )


def _variants(placements: tuple[Placement, ...]) -> Iterator[str]:
    """Which replicas run another form of their model, and by whose leave."""
    forms = collections.Counter(
        (p.model, p.candidate.variant) for p in placements if p.candidate.variant
    )
    for (model, variant), count in sorted(forms.items()):
        total = sum(p.model == model for p in placements)
        part = "its replica" if total == 1 else f"{count} of its {total} replicas"
        yield (
            f"{model}: {part} run{'s' if count == 1 else ''} the variant {variant}, which the "
            "model lists as acceptable in its place; its answers are not the model's own."
        )


def _stale(placements: tuple[Placement, ...]) -> Iterator[str]:
    doubted = {(p.model, p.candidate.stale) for p in placements if p.candidate.stale}
    margin = RATE_MARGIN[ProfileKind.TRANSFERRED]
    for model, reasons in sorted(doubted):
        yield (
            f"{model}: its profile is stale ({'; '.join(reasons)}), and planned with a rate "
            f"margin of {margin:.0%} at least until it is measured again."
        )


def unplaced(instance: Instance, found: Found) -> tuple[Unplaced, ...]:
    """Models, or parts of their demand, that have no place."""
    result = [_hopeless(instance, instance.request.models[m]) for m in instance.hopeless]
    for position in found.packing.lacking():
        need = instance.needs[position]
        count = found.packing.counts[need.model]
        missing = max(0, need.rate - found.packing.rates[need.model]) / RATE_SCALE
        result.append(
            Unplaced(
                model=need.name,
                reason=f"{need.name} {_what_short(found, need)}: {_why_short(found, need)}.",
                missing_req_per_s=missing if need.rated else None,
                remedy=_remedy(instance, need, missing, count),
            )
        )
    return tuple(result)


def _what_short(found: Found, need: Need) -> str:
    rate, count = found.packing.rates[need.model], found.packing.counts[need.model]
    parts = []
    if rate < need.rate:
        parts.append(
            f"gets {_number(rate / RATE_SCALE)} of {_number(need.rate / RATE_SCALE)} requests/s"
        )
    if count < need.min_replicas and need.min_replicas > 1:
        fit = f"only {count} {'fits' if count == 1 else 'fit'}" if count else "none fits"
        parts.append(f"has min_replicas {need.min_replicas}, {fit}")
    elif count < need.min_replicas and not parts:
        parts.append(f"gets {count} of {_count(need.min_replicas, 'replica')}")
    return " and ".join(parts)


def _why_short(found: Found, need: Need) -> str:
    if found.packing.counts[need.model] >= need.max_replicas:
        return f"it may have at most {_count(need.max_replicas, 'replica')}"
    full = _full_resources(found.packing)
    proof = (
        "" if found.proven_impossible is None or found.proven_impossible else ", as far as known"
    )
    if full:
        return f"the devices have no {' and no '.join(full)} left{proof}"
    return f"no replica of it fits beside what the devices hold{proof}"


def _full_resources(packing: Packing) -> list[str]:
    memory = memory_of = sm = sm_of = cores = cores_of = 0
    for index, load in enumerate(packing.loads):
        group = packing.group(index)
        memory, memory_of = memory + load.memory, memory_of + group.memory_mib
        if load.option is not None and packing.option(index).mode is SharingMode.MPS:
            sm, sm_of = sm + load.sm, sm_of + 100
        cores, cores_of = cores + load.cores, cores_of + group.cores
    shares = {"memory": (memory, memory_of), "SMs": (sm, sm_of), "cores": (cores, cores_of)}
    return [name for name, (used, total) in shares.items() if total and used >= FULL * total]


def _remedy(instance: Instance, need: Need, missing: float, count: int) -> str:
    each = reference_rate(instance, need) / RATE_SCALE
    few = count < need.min_replicas and need.min_replicas > 1
    if few and missing <= 0:
        return "Lower min_replicas or add devices."
    if missing <= 0:
        return "Add a device, stop another model, or ask for fewer replicas."
    if count >= need.max_replicas:
        return f"Raise max_replicas, or lower the demand by {_number(missing)} requests/s."
    more = math.ceil(missing / each) if each > 0 else 1
    also = " Lower min_replicas too, unless devices are added." if few else ""
    return (
        f"Lower its demand by {_number(missing)} requests/s, loosen its SLO, or add about "
        f"{_count(more, 'device')} (one gives it up to {_number(each)} requests/s).{also}"
    )


def _hopeless(instance: Instance, demand: ModelDemand) -> Unplaced:
    reason, remedy = _why_nowhere(instance, demand)
    return Unplaced(demand.model, reason, demand.demand.planned_req_per_s, remedy)


def _why_nowhere(instance: Instance, demand: ModelDemand) -> tuple[str, str]:
    devices, name = instance.request.devices, demand.model
    if not devices:
        return f"{name}: there is no device.", "Add a device, or enable the CPU in the settings."
    if not demand.candidates:
        reason = demand.reason or "it has no profile that can be used"
        return f"{name}: {reason.rstrip('.')}.", f"Run `partitiond profile {name}`."
    kinds = sorted({d.hardware for d in devices})
    here = [c for c in demand.candidates if c.hardware in kinds]
    if not here:
        known = ", ".join(sorted({c.hardware for c in demand.candidates}))
        return (
            f"{name} is profiled on {known}, the devices are {', '.join(kinds)}.",
            f"Run `partitiond profile {name}` on this hardware.",
        )
    least = min(c.memory_bytes for c in here)
    room = max(usable_mib(d) for d in devices if d.hardware in {c.hardware for c in here}) * 2**20
    if least > room:
        return (
            f"{name} needs {format_bytes(least)} and the largest device has {format_bytes(room)} "
            f"after headroom, reserved and foreign use.",
            "Use a larger device, a shorter context or a smaller model.",
        )
    wanted = {c.size.mode for c in here}
    allowed = {m for d in devices for m in d.modes}
    if not wanted & allowed:
        return (
            f"{name} is profiled for {', '.join(sorted(wanted))}, the devices allow "
            f"{', '.join(sorted(allowed))}.",
            "Allow the mode on a device, or profile the model in another one.",
        )
    if any(d.kind is DeviceKind.CPU for d in devices):
        cores = min(c.size.cores for c in here)
        return (
            f"{name} fits no device with its {_count(cores, 'core')} and "
            f"{format_bytes(least)}, or misses its SLO on every one.",
            "Loosen the SLO, or profile it on fewer cores.",
        )
    return f"{name} misses its SLO on every device.", "Loosen the SLO or use a faster device."


def infeasible(missing: tuple[Unplaced, ...]) -> Infeasible:
    """Nothing can be placed at all."""
    return Infeasible(
        reasons=tuple(dict.fromkeys(u.reason for u in missing)),
        remedies=tuple(dict.fromkeys(u.remedy for u in missing if u.remedy)),
    )
