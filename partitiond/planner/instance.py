"""The request as integers: what fits where, and what every model needs."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.interference import TOLERANCE, device_kappa, mode_overhead_bytes
from partitiond.core.mig import geometry_on, instance_bytes, place_of
from partitiond.core.plan import weights_of
from partitiond.core.spec import Isolation, PlacementRules
from partitiond.core.units import MIB
from partitiond.planner.costs import device_units, item_units
from partitiond.planner.dominated import Fits, Spare, in_use, most_useful, without_dominated
from partitiond.planner.needs import needs_of
from partitiond.planner.options import open_modes, options_of
from partitiond.planner.pools import Pool, mib_up, shared_limits, usable_mib
from partitiond.planner.ties import names_of, ties_of, unreachable
from partitiond.planner.types import (
    PRICE_SCALE,
    RATE_SCALE,
    SHARE_SCALE,
    Group,
    Instance,
    Item,
    Need,
    Option,
    PlanRequest,
    usual_budget,
)

__all__ = [
    "PRICE_SCALE",
    "RATE_SCALE",
    "SHARE_SCALE",
    "Group",
    "Instance",
    "Item",
    "Need",
    "Option",
    "PlanRequest",
    "allowed_on",
    "build_instance",
    "usual_budget",
]


def build_instance(request: PlanRequest) -> Instance:
    """Round everything to the safe side and sort out what fits where."""
    items = tuple(_items(request))
    pools = shared_limits(request.devices, request.host_memory_bytes, request.host_cores_shared)
    needs = needs_of(request)
    spare = Spare(most_useful(request, needs), in_use(request, items))
    groups = tuple(_groups(request, items, pools, spare))
    group_of = {b: g.index for g in groups for b in g.bins}
    fitting = {items[i].model for g in groups for fit in g.fits for i in fit}
    placeable = fitting - unreachable(needs, fitting)
    planned = tuple(n for n in needs if n.model in placeable)
    if placeable != fitting:
        groups = tuple(_without(g, items, placeable) for g in groups)
    return Instance(
        request=request,
        items=items,
        groups=groups,
        group_of=tuple(group_of[b] for b in range(len(request.devices))),
        pools=pools,
        needs=planned,
        hopeless=tuple(n.model for n in needs if n.model not in placeable),
        ties=ties_of(request, planned, groups, items),
    )


def _without(group: Group, items: tuple[Item, ...], placeable: Collection[int]) -> Group:
    """The group without the models that rules keep out altogether, and options only they had."""

    def left(fits: Fits) -> list[tuple[int, ...]]:
        return [tuple(i for i in fit if items[i].model in placeable) for fit in fits]

    found = zip(group.options, left(group.fits), left(group.needed), strict=True)
    ways = [(option, fit, needed) for option, fit, needed in found if fit]
    return dataclasses.replace(
        group,
        options=tuple(option for option, _, _ in ways),
        fits=tuple(fit for _, fit, _ in ways),
        needed=tuple(needed for _, _, needed in ways),
    )


def allowed_on(rules: PlacementRules, device: Device) -> bool:
    """Whether `only_on` names the device, its host, its rack or its hardware, or nothing."""
    return not rules.only_on or not names_of(device).isdisjoint(rules.only_on)


def _items(request: PlanRequest) -> Iterable[Item]:
    kinds = {d.hardware: d.kind for d in request.devices}
    index = itertools.count()
    for model, demand in enumerate(request.models):
        for c in demand.candidates:
            if c.hardware not in kinds:
                continue
            memory = mib_up(c.memory_bytes)
            on_cpu = kinds[c.hardware] is DeviceKind.CPU
            mode = c.size.mode
            # An instance computes with its own SMs and memory: it takes no share of the others'.
            in_mig = mode is SharingMode.MIG
            yield Item(
                index=next(index),
                model=model,
                candidate=c,
                memory_mib=memory,
                sm=c.size.sm_percent if mode is SharingMode.MPS else 0,
                busy=0 if in_mig else math.ceil(c.busy * SHARE_SCALE - 1e-3),
                cores=c.size.cores,
                host_mib=memory if on_cpu else mib_up(c.host_memory_bytes),
                load_bytes=max(1, weights_of(c)),
                kappa=0.0 if in_mig else device_kappa(mode, (c.kappa,), request.interference),
                mig_profile=c.size.mig_profile if in_mig else "",
                cost=item_units(request, demand, c),
            )


def _groups(
    request: PlanRequest, items: tuple[Item, ...], pools: tuple[Pool, ...], spare: Spare
) -> Iterable[Group]:
    # Devices that are interchangeable: they hold the same and cost the same.
    alike: dict[tuple[object, ...], list[int]] = {}
    prices = device_units(request)
    bound_to = [model.rules for model in request.models if model.rules.only_on]
    for index, device in enumerate(request.devices):
        allowed = tuple(allowed_on(rules, device) for rules in bound_to)
        kind = (_limits(device), _pools_of(index, pools), prices[index], allowed)
        alike.setdefault(kind, []).append(index)
    ways: dict[object, tuple[tuple[Option, ...], Fits, Fits]] = {}
    for index, ((limits, _, _, allowing), bins) in enumerate(alike.items()):
        device = request.devices[bins[0]]
        drawn = _pools_of(bins[0], pools)
        shared = {pools[number].kind for number in drawn} | ({"cores"} if device.cores else set())
        # Groups that differ only in the host they draw from hold the same.
        same = (limits, allowing, frozenset(shared))
        if same not in ways:
            ways[same] = _ways(request, device, items, dataclasses.replace(spare, shared=shared))
        options, fits, needed = ways[same]
        yield Group(
            index=index,
            bins=tuple(bins),
            hardware=device.hardware,
            memory_mib=usable_mib(device),
            cores=len(device.cores),
            price=prices[bins[0]],
            pools=drawn,
            options=options,
            fits=fits,
            needed=needed,
            sm_percent=max(0, 100 - device.occupied_sm_percent),
        )


def _limits(device: Device) -> object:
    """What decides what a device can hold, itself and now."""
    return (
        device.hardware,
        usable_mib(device),
        len(device.cores),
        tuple(sorted(open_modes(device))),
        device.max_replicas,
        device.occupied_sm_percent,
        *_mig_limits(device),
    )


def _mig_limits(device: Device) -> tuple[object, ...]:
    """What decides which GPU instances a device can hold, and where."""
    occupied = tuple(sorted(set(device.occupied_slices)))
    if SharingMode.MIG not in device.modes:
        return (bool(occupied),)
    # An instance's UUID is its own on every GPU; where it is and how large decides.
    instances = tuple(
        sorted(
            (*place_of(i), i.memory_bytes, bool(i.uuid) and not i.busy)
            for i in device.mig_instances
        )
    )
    return (occupied, instances, device.mig_fixed, device.mig_profiles)


def _ways(
    request: PlanRequest, device: Device, items: tuple[Item, ...], spare: Spare
) -> tuple[tuple[Option, ...], Fits, Fits]:
    """The options of a device, what each can hold, and what of that is needed there."""
    allowed = [allowed_on(demand.rules, device) for demand in request.models]
    fitting = [item for item in _fitting(device, items) if allowed[item.model]]
    options: list[Option] = []
    fits: list[tuple[int, ...]] = []
    by_mode: dict[SharingMode | None, list[Item]] = {None: fitting}
    for item in fitting:
        by_mode.setdefault(item.candidate.size.mode, []).append(item)
    for option in options_of(device, request.interference, fitting):
        fit = tuple(i.index for i in by_mode[option.mode] if _may(i, option, request))
        if fit and not (options and _same_at_less(options[-1], option) and fits[-1] == fit):
            options.append(option)
            fits.append(fit)
    return tuple(options), *without_dominated(options, fits, items, spare)


def _same_at_less(lower: Option, option: Option) -> bool:
    """Whether the two differ in kappa alone: of those that hold the same items one is enough."""
    return (lower.mode, lower.level) == (option.mode, option.level)


def _pools_of(index: int, pools: tuple[Pool, ...]) -> tuple[int, ...]:
    return tuple(p.index for p in pools if index in p.bins)


def _fitting(device: Device, items: tuple[Item, ...]) -> list[Item]:
    """Items that fit an empty device of this kind."""
    modes, cores = open_modes(device), len(device.cores)
    found = [
        item
        for item in items
        if item.candidate.hardware == device.hardware
        and item.candidate.size.mode in modes
        and _has_memory(device, item)
        and item.sm <= 100 - device.occupied_sm_percent
        and (not cores or item.cores <= cores)
    ]
    shares: dict[int, list[Item]] = {}
    for item in found:
        if item.candidate.size.mode is SharingMode.MEMORY:
            shares.setdefault(item.model, []).append(item)
    return [item for item in found if not _redundant(item, shares.get(item.model, []))]


def _has_memory(device: Device, item: Item) -> bool:
    """Whether the device, or the MIG instance the item asks for, has memory for it."""
    mode = item.candidate.size.mode
    if mode is not SharingMode.MIG:
        return item.memory_mib + mib_up(mode_overhead_bytes(mode)) <= usable_mib(device)
    geometry = geometry_on(device)
    position = None if geometry is None else geometry.index(item.mig_profile)
    if geometry is None or position is None:
        return False
    room = instance_bytes(geometry.profiles[position]) // MIB
    return item.memory_mib <= room and geometry.holds(geometry.radix[position])


def _redundant(item: Item, shares: list[Item]) -> bool:
    """A whole device is no better than one of its model's memory shares that nobody else shares."""
    return item.candidate.size.mode is SharingMode.WHOLE and any(
        share.memory_mib <= item.memory_mib
        and share.candidate.capacity_req_per_s >= item.candidate.capacity_req_per_s
        and share.cost <= item.cost
        for share in shares
    )


def _may(item: Item, option: Option, request: PlanRequest) -> bool:
    """Whether the item may be on a device that is run this way, everything else aside."""
    mode, demand = item.candidate.size.mode, request.models[item.model]
    isolation = demand.isolation
    if option.mode is None:
        allowed = isolation is not Isolation.SHARED or mode is SharingMode.WHOLE
        # In mode MIG an instance is as isolated as hardware makes it, whoever is beside it.
        allowed = allowed and not (isolation is Isolation.HARDWARE and mode is SharingMode.MIG)
    else:
        walled = isolation is Isolation.HARDWARE and option.mode is SharingMode.MIG
        allowed = option.mode is mode and (isolation is Isolation.SHARED or walled)
        allowed = allowed and item.busy <= option.busy_limit[1] and item.kappa <= option.kappa_limit
    slo, c = demand.slo, item.candidate
    return allowed and (
        slo is None
        or (
            c.ttft_p95_seconds * option.level <= slo.ttft_seconds * (1 + TOLERANCE)
            and c.tpot_p95_seconds * option.level <= slo.tpot_seconds * (1 + TOLERANCE)
        )
    )
