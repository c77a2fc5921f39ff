"""Why each model got what it got, what is unplaced and why, and what would help."""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.interference import mode_overhead_bytes
from partitiond.core.plan import (
    Candidate,
    Certificate,
    Infeasible,
    ModelDemand,
    Objective,
    Placement,
    Status,
    Unplaced,
)
from partitiond.core.plan_choices import prices_told, runner_up
from partitiond.core.profile import RATE_MARGIN, ProfileKind
from partitiond.core.units import format_bytes
from partitiond.planner.bound import bound_cost
from partitiond.planner.certify import PROVEN
from partitiond.planner.cores import core_notes
from partitiond.planner.corrections import corrections_told
from partitiond.planner.exact import reference_rates
from partitiond.planner.explain_sizes import Sizes
from partitiond.planner.explain_slices import why_no_instance
from partitiond.planner.found import IMPOSSIBLE, Found
from partitiond.planner.instance import Instance, Need, build_instance
from partitiond.planner.next_best import next_best_told
from partitiond.planner.options import open_modes
from partitiond.planner.packing import Packing
from partitiond.planner.pools import usable_bytes
from partitiond.planner.rules import missing as what_is_missing
from partitiond.planner.rules_text import (
    how_to_survive,
    warnings,
    what_is_lost,
    why_kept_out,
    why_not_spread,
)
from partitiond.planner.types import Group, PlanRequest

MUCH = 1000.0
"""Spare capacity from here on is not worth a number."""
FULL = 0.9
"""A device's resource counts as full from here on."""


def explain(
    instance: Instance, found: Found, placements: tuple[Placement, ...], proof: Certificate
) -> tuple[str, ...]:
    """Sentences for a reader, the summary first."""
    lines = [_summary(instance, found, proof), *_priorities(proof)]
    lines.extend(_why_partial(instance, found))
    lines.extend(_next_best(instance, found, proof))
    by_model: dict[str, list[Placement]] = collections.defaultdict(list)
    for p in placements:
        by_model[p.model].append(p)
    lines.extend(_model_lines(found.packing, by_model))
    lines.extend(_device_lines(found.packing))
    lines.extend(core_notes(instance.request.devices, placements))
    lines.extend(_variants(placements))
    lines.extend(_provisional(placements))
    lines.extend(_stale(placements))
    lines.extend(corrections_told(placements))
    lines.extend(warnings(instance.request))
    return tuple(lines)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _number(value: float, digits: int = 3) -> str:
    """So many significant digits, but large numbers whole and grouped, never as 1e+05."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _summary(instance: Instance, found: Found, proof: Certificate) -> str:
    own, bound = proof.own_value, proof.own_bound
    proven = proof.status is Status.OPTIMAL or abs(bound - own) <= PROVEN * abs(own)
    words = proof.optimal_words if proven else "not proven optimal"
    used, total = len(found.packing.used()), len(instance.group_of)
    replicas = sum(found.packing.counts.values())
    head = (
        f"{_count(replicas, 'replica')} of {_count(len(instance.needs), 'model')} "
        f"on {used} of {_count(total, 'device')}"
    )
    return f"{head}: {_worth(proof)} ({words})."


def _priorities(proof: Certificate) -> Iterator[str]:
    """What each priority gets, where several count."""
    if proof.by_priority:
        parts = [
            f"{p.priority} gets {_number(p.value, 4)} of at most {_number(p.bound, 4)}"
            for p in proof.by_priority
        ]
        yield (
            f"Weighted requests/s by priority, the first counting before all others: priority "
            f"{', '.join(parts)}."
        )


def _worth(proof: Certificate) -> str:
    """The certificate's value and bound, without the price of moves, in the objective's words."""
    of, most = _number(proof.own_value, 4), _number(proof.own_bound, 4)
    match proof.objective:
        case Objective.MIN_DEVICES:
            return f"no plan needs fewer than {most}"
        case Objective.MIN_PRICE:
            return f"the price is {of} per hour, no plan's is below {most}"
        case Objective.MIN_POWER:
            return f"the devices' power limits add up to {of} W, no plan's to less than {most}"
        case Objective.MIN_ENERGY:
            return f"it draws {of} W as predicted, no plan draws less than {most}"
        case Objective.MAX_GOODPUT:
            return f"{of} weighted requests/s, no plan gives more than {most}"
        case Objective.MAX_MIN:
            return (
                f"the worst served model gets {of} of its demand over its weight, no plan gives "
                f"it more than {most}"
            )
        case Objective.MAX_HEADROOM:
            return f"it serves {of} times the demand, no plan serves more than {most} times"


def _next_best(instance: Instance, found: Found, proof: Certificate) -> Iterator[str]:
    """The plan that would be made at another price of a move or of a device, and at which."""
    cost = proof.objective.is_cost
    other = runner_up(proof.choices, proof.move_price, is_cost=cost)
    if other is None:
        elsewhere = next_best_told(instance, found.packing, found.elsewhere)
        if elsewhere is not None and not instance.request.running:
            yield elsewhere
        return
    mine = next(c for c in proof.choices if c.chosen)
    both = "instead of".join(
        f" {_amount(proof.objective, c.value)} with {_moves(c.moves)} " for c in (other, mine)
    )
    yield (
        f"Next best of the plans found:{both.rstrip()}; it wins where planner.move_price is "
        f"{prices_told(other)} (now {_number(instance.request.move_price)})."
    )


def _moves(number: int) -> str:
    return _count(number, "move") if number else "no move"


def _amount(objective: Objective, value: float) -> str:
    match objective:
        case Objective.MIN_DEVICES:
            return _count(round(value), "device")
        case Objective.MIN_PRICE:
            return f"{_number(value, 4)} per hour"
        case Objective.MIN_POWER | Objective.MIN_ENERGY:
            return f"{_number(value, 4)} W"
        case _:
            return f"{_number(value, 4)} weighted requests/s"


def proven_not_all(instance: Instance) -> bool:
    """Whether some model alone cannot have what it asks for: it fits no device, or the devices
    lie in too few fault domains.
    """
    return bool(instance.hopeless) or any(
        why_not_spread(instance, need) is not None for need in instance.needs
    )


def proven_impossible(request: PlanRequest) -> bool:
    """Whether it is proven fast that not all can be served: by one model alone, or the bound."""
    instance = build_instance(request)
    return proven_not_all(instance) or bound_cost(instance).value is None


def _why_partial(instance: Instance, found: Found) -> Iterator[str]:
    if found.proven_impossible is None:
        return
    if found.proven_impossible or proven_not_all(instance):
        yield IMPOSSIBLE
    elif found.packing.lacking():
        yield (
            "No plan that serves everything was found in the time given, and none is proven "
            "impossible; this serves the most that was found."
        )
    else:
        yield (
            "Everything is served. That was found only at the end of the time, so that a plan "
            f"better by {instance.request.objective.value} may well exist: give it more time."
        )


def _model_lines(packing: Packing, by_model: dict[str, list[Placement]]) -> Iterator[str]:
    """Each model's reason for its sizes, where it has one of its own; the others are counted."""
    sizes, fitted = Sizes(packing.instance), 0
    for need in packing.instance.needs:
        if not by_model[need.name]:
            continue
        why = sizes.why(need, by_model[need.name])
        if why is None:
            fitted += 1
        else:
            served = _served(packing, need)
            replicas = _count(len(by_model[need.name]), "replica")
            yield f"{need.name}: {replicas}, {served}; {why}."
    if fitted:
        yield (
            f"{_count(fitted, 'model')} {'has' if fitted == 1 else 'have'} sizes that fit beside "
            "the others; `partitiond plan --explain MODEL` tells what each size would give."
        )


def _served(packing: Packing, need: Need) -> str:
    request = packing.instance.request
    rate = packing.rates[need.model] / need.units
    if not need.rated:
        return f"{_number(rate)} requests/s, as much as there is"
    wanted = request.models[need.model].demand.planned_req_per_s or 1 / need.units
    spare = rate / wanted - 1
    fit = f"{_number(rate)} requests/s for {_number(wanted)} wanted"
    fit += f" ({spare:,.0%} to spare)" if 0.005 <= spare < MUCH else ""
    fit += " (many times over)" if spare >= MUCH else ""
    fit += f" ({-spare:.0%} short)" if spare <= -0.005 else ""
    return fit


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
            least = " at least" if kind is ProfileKind.TRANSFERRED else ""
            yield (
                f"{kind.value.capitalize()}, not measured, and planned with a rate margin of "
                f"{RATE_MARGIN[kind]:.0%}{least}: {', '.join(models)}."
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


def unplaced(instance: Instance, found: Found, rates: Mapping[str, float]) -> tuple[Unplaced, ...]:
    """Models, or parts of their demand, that have no place; `rates` is what the plan gives each."""
    result = [_hopeless(instance, instance.request.models[m]) for m in instance.hopeless]
    lacking = found.packing.lacking()
    full = _full_resources(found.packing) if lacking else []
    most = reference_rates(instance) if lacking else {}
    for position in lacking:
        need = instance.needs[position]
        count = found.packing.counts[need.model]
        missing = max(0, need.rate - found.packing.rates[need.model]) / need.units
        result.append(
            Unplaced(
                model=need.name,
                reason=f"{need.name} {_what_short(found, need)}: {_why_short(found, need, full)}.",
                missing_req_per_s=_missing(instance, need, rates) if need.rated else None,
                remedy=_remedy(instance, need, missing, count, most[need.model]),
            )
        )
    return tuple(result)


def _missing(instance: Instance, need: Need, rates: Mapping[str, float]) -> float:
    wanted = instance.request.models[need.model].demand.planned_req_per_s or 0.0
    return max(0.0, wanted - rates.get(need.name, 0.0))


def _what_short(found: Found, need: Need) -> str:
    rate, count = found.packing.rates[need.model], found.packing.counts[need.model]
    parts = []
    if rate < need.rate:
        parts.append(
            f"gets {_number(rate / need.units)} of {_number(need.rate / need.units)} requests/s"
        )
    if count < need.min_replicas and need.min_replicas > 1:
        fit = f"only {count} {'fits' if count == 1 else 'fit'}" if count else "none fits"
        parts.append(f"has min_replicas {need.min_replicas}, {fit}")
    elif count < need.min_replicas and not parts:
        parts.append(f"gets {count} of {_count(need.min_replicas, 'replica')}")
    lack = what_is_missing(found.packing, need)
    if not parts and lack is not None:
        parts.append(what_is_lost(found.packing.instance, need, lack))
    return " and ".join(parts)


def _why_short(found: Found, need: Need, full: list[str]) -> str:
    if found.packing.counts[need.model] >= need.max_replicas:
        return f"it may have at most {_count(need.max_replicas, 'replica')}"
    alone = why_not_spread(found.packing.instance, need)
    if alone is not None:
        return alone
    proof = (
        "" if found.proven_impossible is None or found.proven_impossible else ", as far as known"
    )
    if full:
        return f"the devices have no {' and no '.join(full)} left{proof}"
    return f"no replica of it fits beside what the devices hold{proof}"


def _full_resources(packing: Packing) -> list[str]:
    """What is used up over all devices; a device that runs nothing has all of its SMs left."""
    memory = memory_of = sm = sm_of = cores_left = cores_of = 0
    for index, load in enumerate(packing.loads):
        group = packing.group(index)
        memory, memory_of = memory + load.memory, memory_of + group.memory_bytes
        if load.option is None:
            sm_of += group.sm_percent if _offers_mps(group) else 0
        elif packing.option(index).mode is SharingMode.MPS:
            sm, sm_of = sm + load.sm, sm_of + 100
        cores_left += min([group.cores - load.cores, *_pooled_cores_left(packing, group.pools)])
        cores_of += group.cores
    shares = {
        "memory": (memory, memory_of),
        "SMs": (sm, sm_of),
        "cores": (cores_of - cores_left, cores_of),
    }
    return [name for name, (used, total) in shares.items() if total and used >= FULL * total]


def _offers_mps(group: Group) -> bool:
    return any(option.mode is SharingMode.MPS for option in group.options)


def _pooled_cores_left(packing: Packing, pools: Sequence[int]) -> list[int]:
    """What is left of the cores that a device shares with others of its host."""
    limits = [packing.instance.pools[p] for p in pools]
    return [
        pool.capacity - packing.pool_used[pool.index] for pool in limits if pool.kind == "cores"
    ]


def _remedy(instance: Instance, need: Need, missing: float, count: int, most: int) -> str:
    each = most / need.units
    few = count < need.min_replicas and need.min_replicas > 1
    if few and missing <= 0:
        return "Lower min_replicas or add devices."
    if missing <= 0 and need.domain_of:
        return how_to_survive(instance, need)
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
    if not any(device.modes for device in devices):
        return f"{name}: no device allows any sharing mode.", "Allow one on a device."
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
    ruled = why_kept_out(instance, demand)
    if ruled is not None:
        return ruled
    least = min(c.memory_bytes + mode_overhead_bytes(c.size.mode) for c in here)
    room = max(usable_bytes(d) for d in devices if d.hardware in {c.hardware for c in here})
    if least > room:
        return (
            f"{name} needs {format_bytes(least)} and the largest device has {format_bytes(room)} "
            f"after headroom, reserved and foreign use.",
            "Use a larger device, a shorter context or a smaller model.",
        )
    closed = _closed(here, devices, name)
    if closed is not None:
        return closed
    wanted = {c.size.mode for c in here}
    allowed = {m for d in devices for m in d.modes}
    if not wanted & allowed:
        return (
            f"{name} is profiled for {', '.join(sorted(wanted))}, the devices allow "
            f"{', '.join(sorted(allowed))}.",
            "Allow the mode on a device, or profile the model in another one.",
        )
    in_slices = why_no_instance(here, devices, name)
    if in_slices is not None:
        return in_slices
    if any(d.kind is DeviceKind.CPU for d in devices):
        cores = min(c.size.cores for c in here)
        return (
            f"{name} fits no device with its {_count(cores, 'core')} and "
            f"{format_bytes(least)}, or misses its SLO on every one.",
            "Loosen the SLO, or profile it on fewer cores.",
        )
    if demand.slo is None:
        return (
            f"{name} fits no device: of its sizes each takes more memory, cores or SMs than one of "
            f"them has, or disturbs itself beyond all levels of interference.",
            "Profile a smaller size, or use a larger device.",
        )
    return f"{name} misses its SLO on every device.", "Loosen the SLO or use a faster device."


def _closed(
    here: list[Candidate], devices: tuple[Device, ...], name: str
) -> tuple[str, str] | None:
    """Where each device that could hold the model is cordoned, or held by others."""
    kinds = {c.hardware for c in here}
    mine = [device for device in devices if device.hardware in kinds]
    if all(device.cordoned for device in mine):
        return (
            f"{name}: each device that could hold it is cordoned.",
            "Take the cordon off one of them, or add a device.",
        )
    if not any(open_modes(d) for d in mine):
        return (
            f"{name}: each device that could hold it is cordoned, or in others' use in a mode "
            f"that is not among its `modes`.",
            "Free one of them, allow that mode, or add a device.",
        )
    if all(device.cordoned or device.occupied_sm_percent >= 100 for device in mine):
        return (
            f"{name}: others hold all SMs of each device that could hold it.",
            "Lower occupied_sm_percent, or add a device.",
        )
    return None


def infeasible(missing: tuple[Unplaced, ...]) -> Infeasible:
    """Nothing can be placed at all."""
    return Infeasible(
        reasons=tuple(dict.fromkeys(u.reason for u in missing)),
        remedies=tuple(dict.fromkeys(u.remedy for u in missing if u.remedy)),
    )
