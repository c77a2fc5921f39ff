"""The request as integers: what fits where, and what every model needs."""

import itertools
import math
from collections.abc import Iterable

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.interference import TOLERANCE, device_kappa, mode_overhead_bytes
from partitiond.planner.needs import need_of
from partitiond.planner.options import options_of
from partitiond.planner.pools import Pool, mib_up, shared_limits, usable_mib
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
    "build_instance",
]


def build_instance(request: PlanRequest) -> Instance:
    """Round everything to the safe side and sort out what fits where."""
    items = tuple(_items(request))
    pools = shared_limits(request.devices, request.host_memory_bytes, request.host_cores_shared)
    needs = [need_of(index, demand, request) for index, demand in enumerate(request.models)]
    groups = tuple(_groups(request, items, pools, needs))
    group_of = {b: g.index for g in groups for b in g.bins}
    placeable = {items[i].model for g in groups for fit in g.fits for i in fit}
    return Instance(
        request=request,
        items=items,
        groups=groups,
        group_of=tuple(group_of[b] for b in range(len(request.devices))),
        pools=pools,
        needs=tuple(n for n in needs if n.model in placeable),
        hopeless=tuple(n.model for n in needs if n.model not in placeable),
    )


def _items(request: PlanRequest) -> Iterable[Item]:
    kinds = {d.hardware: d.kind for d in request.devices}
    index = itertools.count()
    for model, demand in enumerate(request.models):
        for c in demand.candidates:
            # MIG layouts are not planned yet: their candidates would need a place in the geometry.
            if c.hardware not in kinds or c.size.mode is SharingMode.MIG:
                continue
            memory = mib_up(c.memory_bytes)
            on_cpu = kinds[c.hardware] is DeviceKind.CPU
            yield Item(
                index=next(index),
                model=model,
                candidate=c,
                memory_mib=memory,
                sm=c.size.sm_percent if c.size.mode is SharingMode.MPS else 0,
                busy=math.ceil(c.busy * SHARE_SCALE - 1e-3),
                cores=c.size.cores,
                host_mib=memory if on_cpu else mib_up(c.host_memory_bytes),
                load_bytes=max(1, c.memory_bytes - c.kv_cache_bytes),
                kappa=device_kappa(c.size.mode, (c.kappa,), request.interference),
            )


def _groups(
    request: PlanRequest, items: tuple[Item, ...], pools: tuple[Pool, ...], needs: list[Need]
) -> Iterable[Group]:
    alike: dict[object, list[int]] = {}
    for index, device in enumerate(request.devices):
        key = (
            device.hardware,
            usable_mib(device),
            len(device.cores),
            tuple(sorted(device.modes)),
            device.price_per_hour,
            _pools_of(index, pools),
        )
        alike.setdefault(key, []).append(index)
    for index, bins in enumerate(alike.values()):
        device = request.devices[bins[0]]
        fitting = _fitting(device, items)
        options: list[Option] = []
        fits: list[tuple[int, ...]] = []
        ways = options_of(device.modes, len(device.cores), request.interference, fitting)
        for option in ways:
            fit = tuple(i.index for i in fitting if _may(i, option, needs[i.model], request))
            if fit and not (options and _same_at_less(options[-1], option) and fits[-1] == fit):
                options.append(option)
                fits.append(fit)
        yield Group(
            index=index,
            bins=tuple(bins),
            hardware=device.hardware,
            memory_mib=usable_mib(device),
            cores=len(device.cores),
            price=round(device.price_per_hour * PRICE_SCALE),
            pools=_pools_of(bins[0], pools),
            options=tuple(options),
            fits=tuple(fits),
        )


def _same_at_less(lower: Option, option: Option) -> bool:
    """Whether the two differ in kappa alone: of those that hold the same items one is enough."""
    return (lower.mode, lower.level) == (option.mode, option.level)


def _pools_of(index: int, pools: tuple[Pool, ...]) -> tuple[int, ...]:
    return tuple(p.index for p in pools if index in p.bins)


def _fitting(device: Device, items: tuple[Item, ...]) -> list[Item]:
    """Items that fit an empty device of this kind."""
    memory, cores = usable_mib(device), len(device.cores)
    found = [
        item
        for item in items
        if item.candidate.hardware == device.hardware
        and item.candidate.size.mode in device.modes
        and item.memory_mib + mib_up(mode_overhead_bytes(item.candidate.size.mode)) <= memory
        and (not cores or item.cores <= cores)
    ]
    return [item for item in found if not _redundant(item, found)]


def _redundant(item: Item, others: list[Item]) -> bool:
    """A whole device is no better than a memory share that nobody else shares."""
    return item.candidate.size.mode is SharingMode.WHOLE and any(
        other.model == item.model
        and other.candidate.size.mode is SharingMode.MEMORY
        and other.memory_mib <= item.memory_mib
        and other.candidate.capacity_req_per_s >= item.candidate.capacity_req_per_s
        for other in others
    )


def _may(item: Item, option: Option, need: Need, request: PlanRequest) -> bool:
    """Whether the item may be on a device that is run this way, everything else aside."""
    mode = item.candidate.size.mode
    if option.mode is None:
        allowed = need.isolated or mode is SharingMode.WHOLE
    else:
        allowed = option.mode is mode and not need.isolated and item.busy <= option.busy_limit[1]
        allowed = allowed and item.kappa <= option.kappa_limit
    slo, c = request.models[item.model].slo, item.candidate
    return allowed and (
        slo is None
        or (
            c.ttft_p95_seconds * option.level <= slo.ttft_seconds * (1 + TOLERANCE)
            and c.tpot_p95_seconds * option.level <= slo.tpot_seconds * (1 + TOLERANCE)
        )
    )
