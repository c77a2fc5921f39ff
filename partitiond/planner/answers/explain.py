"""Explains why each model got its place, what is unplaced and why, and what would help."""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.costs import no_prices
from partitiond.core.plan.record import (
    Candidate,
    Certificate,
    ModelDemand,
    Objective,
    Placement,
    Status,
    Unplaced,
)
from partitiond.core.profile.record import ESTIMATE_ERROR, MEMORY_MARGIN, RATE_MARGIN, ProfileKind
from partitiond.planner.answers.certify import PROVEN
from partitiond.planner.answers.rules_text import (
    how_to_survive,
    warnings,
    what_is_lost,
    why_kept_out,
    why_not_spread,
)
from partitiond.planner.answers.words import CLOSE, KINDS, counted, figure
from partitiond.planner.check.fits import Fits
from partitiond.planner.model.candidates import corrections_told
from partitiond.planner.model.cores import core_notes
from partitiond.planner.model.rates import rates_alone, reference_rates
from partitiond.planner.model.types import Instance, Need
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.packing import missing as what_is_missing
from partitiond.planner.progress.answer import IMPOSSIBLE, LATE, NOT_FOUND, SolveAnswer

MUCH = 1000.0
"""Spare capacity from this multiple on is not reported as a number. Chosen."""
FULL = 0.9
"""A device's resource counts as full from this share on. Chosen, not measured."""

WORTH: Final = {
    Objective.MIN_DEVICES: "no plan needs fewer than {most}",
    Objective.MIN_PRICE: "the price is {of} per hour, no plan's is below {most}",
    Objective.MIN_ENERGY: "its devices and replicas are charged {of} W, no plan's less than {most}",
    Objective.MAX_GOODPUT: "{of} weighted requests/s, no plan{among} gives more than {most}",
    Objective.MAX_MIN: "the smallest share of a demand, over its weight, is {of}, no plan's is "
    "larger than {most}",
}
"""Value and bound of the certificate, without the price of moves, in the objective's words."""
WORTH_UNRATED: Final = (
    "the least that a model gets, over its weight, is {of} requests/s, no plan's is more than "
    "{most}"
)
"""The same for shares if no model has a demand to take a share of."""
GROUPS: Final = ", and an MPS daemon serves one isolation group (try another mode, or one group)"


def explain(
    instance: Instance, found: SolveAnswer, placements: tuple[Placement, ...], proof: Certificate
) -> tuple[str, ...]:
    """Return sentences for a reader, the summary first."""
    return (
        _summary(instance, found, proof),
        *_of_prices(instance, found.packing, proof),
        *_worst_served(found),
        *_why_partial(instance, found),
        *_passed_over(instance, proof),
        *_model_lines(found.packing, placements),
        *_device_lines(found.packing),
        *core_notes(instance.request.devices, placements),
        *_variants(placements),
        *_provisional(placements),
        *_stale(placements),
        *corrections_told(placements),
        *warnings(instance.request),
    )


def _passed_over(instance: Instance, proof: Certificate) -> Iterator[str]:
    """Yield that a plan that serves more was found, and why it is not this one."""
    more, request = proof.best_value, instance.request
    if proof.objective is Objective.MAX_GOODPUT and more is not None and request.running:
        outage = "" if request.allow_outage else "an outage (--allow-outage), or "
        yield f"{figure(more, 4)} would take {outage}moves that cost more."


def _summary(instance: Instance, found: SolveAnswer, proof: Certificate) -> str:
    own, bound = proof.own_value, proof.own_bound
    near = abs(bound - own) <= PROVEN * abs(own)
    near = near and all(p.bound <= p.value * (1 + PROVEN) for p in proof.by_priority)
    # Without a solver's proof another plan may lack fewer of the least replicas.
    near = near and not (
        proof.objective is Objective.MAX_GOODPUT and found.packing.short_replicas()
    )
    proven = proof.status is Status.OPTIMAL or near
    words = proof.optimal_words if proven else "not proven optimal"
    used, total = len(found.packing.used()), len(instance.group_of)
    replicas = sum(found.packing.counts.values())
    head = (
        f"{counted(replicas, 'replica')} of {counted(len(instance.needs), 'model')} "
        f"on {used} of {counted(total, 'device')}"
    )
    unpriced = proof.objective is Objective.MIN_PRICE and no_prices(instance.request.devices)
    worth = WORTH[Objective.MIN_DEVICES if unpriced else proof.objective]
    if proof.objective is Objective.MAX_MIN and not any(need.rated for need in instance.needs):
        worth = WORTH_UNRATED
    among = f" {proof.among}" if proof.among else ""
    worth = worth.format(of=figure(own, 4), most=figure(bound, 4), among=among)
    where = f" in plans{among}" if among else ""
    parts = [
        f"{'then ' * bool(n)}priority {p.priority} gets {figure(p.value, 4)} weighted requests/s "
        f"of at most {figure(p.bound, 4)}{where}"
        for n, p in enumerate(proof.by_priority)
    ]
    return f"{head}: {', '.join(parts) or worth} ({words})."


def _of_prices(instance: Instance, packing: Packing, proof: Certificate) -> Iterator[str]:
    """Yield notes if no device has a price, or if prices are not part of what is proven."""
    devices, used = instance.request.devices, packing.used()
    if proof.objective is Objective.MIN_PRICE and no_prices(devices):
        yield "No device has a price, so that each counts as 1 per hour: fewest devices cost least."
    least = min((device.price_per_hour for device in devices), default=0.0)
    dearer = any(devices[index].price_per_hour > least for index in used)
    if proof.objective is Objective.MIN_DEVICES and dearer:
        yield "Only the number of devices is proven: as many devices of other kinds may cost less."


def _worst_served(found: SolveAnswer) -> Iterator[str]:
    """Yield the smallest share itself if the objective divides it by weights and priorities."""
    packing, needs = found.packing, [n for n in found.packing.instance.needs if n.rated]
    if found.objective is Objective.MAX_MIN and any(n.weight != 1 for n in needs):
        worst = min(needs, key=lambda n: packing.rates[n.model] / n.planned)
        yield f"The worst served model is {worst.name}, with {_served(packing, worst)}."


def proven_not_all(instance: Instance) -> bool:
    """Return whether some model alone cannot have what it asks for: it fits no device, or the
    devices lie in too few fault domains.
    """
    return bool(instance.hopeless) or any(
        why_not_spread(instance, need) is not None for need in instance.needs
    )


def _why_partial(instance: Instance, found: SolveAnswer) -> Iterator[str]:
    if found.proven_impossible is None:
        return
    if not found.packing.lacking():  # the plan itself is the proof
        yield (
            f"{LATE}, so that a plan better by "
            f"{instance.request.objective.value} may well exist: give it more time."
        )
    elif found.proven_impossible or proven_not_all(instance):
        yield IMPOSSIBLE
    else:
        yield NOT_FOUND


def _model_lines(packing: Packing, placements: tuple[Placement, ...]) -> Iterator[str]:
    """Yield each model's reason for its sizes if it has a specific one; count the other models."""
    instance, fitted = packing.instance, 0
    by_model = by_key((p.model, p) for p in placements)
    sizes: dict[int, dict[Candidate, int]] = collections.defaultdict(dict)
    for item, most in zip(instance.items, rates_alone(instance), strict=True):
        sizes[item.model][item.candidate] = most
    for need in instance.needs:
        if not by_model[need.name]:
            continue
        why = _why_size(need, by_model[need.name], sizes[need.model])
        if why is None:
            fitted += 1
        else:
            replicas = counted(len(by_model[need.name]), "replica")
            yield f"{need.name}: {replicas}, {_served(packing, need)}; {why}."
    if fitted:
        yield (
            f"{counted(fitted, 'model')} {'has' if fitted == 1 else 'have'} sizes that fit beside "
            "the others; `partitiond plan --explain MODEL` tells what each size would give."
        )


def _why_size(
    need: Need, placements: list[Placement], per_device: Mapping[Candidate, int]
) -> str | None:
    """Return that the sizes give the most per device, or that no smaller one is enough. None if the
    sizes were chosen to fit beside other models, as most are."""
    chosen = placements[0].candidate
    if len(per_device) <= 1:
        return "it has one size only"
    if all(per_device.get(p.candidate, 0) >= CLOSE * max(per_device.values()) for p in placements):
        return "none of its sizes serves noticeably more per device"
    wanted = need.rate / need.units
    enough = [c for c in per_device if c.capacity_req_per_s >= wanted]
    single = need.rated and len(placements) == 1 and chosen in enough
    if single and chosen.memory_bytes <= min(c.memory_bytes for c in enough):
        return "no smaller one of its sizes covers the demand alone"
    return None


def _served(packing: Packing, need: Need) -> str:
    request = packing.instance.request
    rate = packing.rates[need.model] / need.units
    if not need.rated:
        return f"{figure(rate)} requests/s, as much as there is"
    wanted = request.models[need.model].demand.planned_req_per_s or 1 / need.units
    spare = rate / wanted - 1
    fit = f"{figure(rate)} requests/s for {figure(wanted)} wanted"
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
    for kind in (ProfileKind.ESTIMATED, ProfileKind.TRANSFERRED):
        models = sorted({p.model for p in placements if p.candidate.profile_kind is kind})
        if models:
            least = " at least" if kind is ProfileKind.TRANSFERRED else ""
            yield (
                f"{kind.value.capitalize()}, not measured, and planned with margins of "
                f"{RATE_MARGIN[kind]:.0%}{least} for the rate and {MEMORY_MARGIN[kind]:.0%} for "
                f"the memory: {', '.join(models)}."
            )
            if kind is ProfileKind.ESTIMATED:
                yield (
                    f"Beside measured profiles estimated rates were off by {ESTIMATE_ERROR:.0%} in "
                    "the median, and memory was never too small (docs/benchmarks.md)."
                )


def _variants(placements: tuple[Placement, ...]) -> Iterator[str]:
    """Yield which replicas run another variant of their model, and that the model allows it."""
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


def unplaced(
    instance: Instance, found: SolveAnswer, rates: Mapping[str, float]
) -> tuple[Unplaced, ...]:
    """Return models, or parts of their demand, without a place; `rates` is what the plan gives."""
    models = instance.request.models
    nowhere = ((models[m], _why_nowhere(instance, models[m])) for m in instance.hopeless)
    result = [
        Unplaced(demand.model, reason, demand.demand.planned_req_per_s, remedy)
        for demand, (reason, remedy) in nowhere
    ]
    lacking = found.packing.lacking()
    full = _full_resources(found.packing) if lacking else []
    most = reference_rates(instance) if lacking else {}
    for position in lacking:
        need = instance.needs[position]
        missing = max(0, need.rate - found.packing.rates[need.model]) / need.units
        wanted = models[need.model].demand.planned_req_per_s
        lacks = None if wanted is None else max(0.0, wanted - rates.get(need.name, 0.0))
        result.append(
            Unplaced(
                model=need.name,
                reason=f"{need.name} {_what_short(found, need)}: {_why_short(found, need, full)}.",
                missing_req_per_s=lacks,
                remedy=_remedy(found.packing, need, missing, most[need.model]),
            )
        )
    return tuple(result)


def _what_short(found: SolveAnswer, need: Need) -> str:
    rate, count = found.packing.rates[need.model], found.packing.counts[need.model]
    parts = []
    if rate < need.rate:
        parts.append(
            f"gets {figure(rate / need.units)} of {figure(need.rate / need.units)} requests/s"
        )
    if count < need.min_replicas and need.min_replicas > 1:
        only = f"only {count} {'is' if count == 1 else 'are'}" if count else "none is"
        parts.append(f"has min_replicas {need.min_replicas}, {only} placed")
    elif count < need.min_replicas and not parts:
        parts.append(f"gets {count} of {counted(need.min_replicas, 'replica')}")
    lack = what_is_missing(found.packing, need)
    if not parts and lack is not None:
        parts.append(what_is_lost(found.packing.instance, need, lack))
    return " and ".join(parts)


def _why_short(found: SolveAnswer, need: Need, full: list[str]) -> str:
    if found.packing.counts[need.model] >= need.max_replicas:
        return f"it may have at most {counted(need.max_replicas, 'replica')}"
    alone = why_not_spread(found.packing.instance, need)
    if alone is not None:
        return alone
    idle, lack = _idle(found.packing, need), what_is_missing(found.packing, need)
    uncounted = found.objective in (Objective.MAX_GOODPUT, Objective.MAX_MIN)
    if full and not idle:
        proof = ", as far as known" if found.proven_impossible is False else ""
        return f"the devices have no {' and no '.join(full)} left{proof}"
    if uncounted and lack is not None and lack.only_survival:
        return f"{found.objective} counts what is served, not what a loss leaves"
    nor = f", nor on the {idle} that {'is' if idle == 1 else 'are'} idle" if idle else ""
    demand = found.packing.instance.request.models[need.model]
    theirs = {found.packing.option(index).way for index in found.packing.used()}
    others = (mode for mode, group in theirs if group != demand.isolation_group)
    kinds = {group.hardware for group in found.packing.instance.groups}
    mine = (c.size.mode for c in demand.candidates if c.hardware in kinds)
    apart = SharingMode.MPS in others and SharingMode.MPS in mine
    return f"no room for more of it was found beside what the devices hold{nor}{GROUPS * apart}"


def _idle(packing: Packing, need: Need) -> int:
    """Count empty devices of a kind that the model is profiled on."""
    kinds = {c.hardware for c in packing.instance.request.models[need.model].candidates}
    empty = (packing.group(index) for index, load in enumerate(packing.loads) if not load.items)
    return sum(group.hardware in kinds and bool(group.options) for group in empty)


def _full_resources(packing: Packing) -> list[str]:
    """Return resources used up over all devices; an empty device has all of its SMs left."""
    used, total = collections.Counter[str](), collections.Counter[str]()
    for index, load in enumerate(packing.loads):
        group, pools = packing.group(index), packing.instance.pools
        options = group.options if load.option is None else [packing.option(index)]
        sm = group.sm_percent if any(o.mode is SharingMode.MPS for o in options) else 0
        shared = [p for p in group.pools if pools[p].kind == "cores"]
        cores = [pools[p].capacity - packing.pool_used[p] for p in shared]
        left = min([group.cores - load.cores, *cores])
        total.update({"memory": group.memory_bytes, "SMs": sm, "cores": group.cores})
        used.update({"memory": load.memory, "SMs": load.sm, "cores": group.cores - left})
    return [name for name in total if total[name] and used[name] >= FULL * total[name]]


def _remedy(packing: Packing, need: Need, missing: float, most: int) -> str:
    each, count = most / need.units, packing.counts[need.model]
    few = count < need.min_replicas and need.min_replicas > 1
    if few and missing <= 0:
        return "Lower min_replicas or add devices."
    if missing <= 0 and need.domain_of:
        return how_to_survive(packing.instance, need)
    if missing <= 0:
        return "Add a device, stop another model, or ask for fewer replicas."
    if count >= need.max_replicas:
        return f"Raise max_replicas, or lower the demand by {figure(missing)} requests/s."
    more = math.ceil(missing / each) if each > 0 else 1
    also = " Lower min_replicas too, unless devices are added." if few else ""
    lack = what_is_missing(packing, need)
    if lack is not None and lack.domain is not None:
        also += " Take `survive` back too, unless devices are added."
    less = f"lower its demand by {figure(missing)} requests/s" if count else "stop another model"
    first = f"give it more time, {less}" if _idle(packing, need) else less
    return (
        f"{first.capitalize()}, loosen its SLO, or add about {counted(more, 'device')} "
        f"(one gives it up to {figure(each)} requests/s).{also}"
    )


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
    request = instance.request
    memory = dict(request.host_memory_bytes)
    alone = Fits(devices, {name: demand}, request.interference, memory, near=False)
    stop = alone.closest(alone.unlike(demand), demand)
    if stop is None:
        return f"{name} fits no device beside the others' rules.", "Look at its rules and limits."
    return f"{name} fits no device. The closest: {stop.text}.", KINDS[stop.kind][1]
