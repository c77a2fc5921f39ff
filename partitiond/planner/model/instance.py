"""Turns the request into integers: which items fit where, and what every model needs.

A device runs one replica alone, or several in a sharing mode at a level and a kappa.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.mig.geometry import geometry_on, instance_bytes, place_of
from partitiond.core.model.spec import Isolation, PlacementRules
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import (
    MAX_REPLICAS_PER_DEVICE,
    MODE_OVERHEAD_BYTES,
    TOLERANCE,
    Interference,
    mode_overhead_bytes,
)
from partitiond.core.plan.record import Placement, weights_of
from partitiond.planner.model.dominated import Fits, Spare, in_use, most_useful, without_beaten
from partitiond.planner.model.figures import at_most, down
from partitiond.planner.model.needs import needs_of, units_of, with_lifts
from partitiond.planner.model.pools import Pool, shared_limits, usable_bytes
from partitiond.planner.model.solver_costs import charges_replicas, device_units, item_units
from partitiond.planner.model.ties import names_of, ties_of, without_neighbours
from partitiond.planner.model.types import (
    SHARE_SCALE,
    Group,
    Instance,
    Item,
    Option,
    PlanRequest,
    Way,
    unlike,
)

Holds = dict[Way, dict[int, float]]
Ways = tuple[tuple[Option, ...], Fits, Holds]
"""Options of a device, the items each can hold, and by way the level each item tolerates."""


def build_instance(request: PlanRequest, also: Sequence[Placement] = ()) -> Instance:
    """Return the request as integers, with the items that fit each device.

    Args:
        request: the question.
        also: placements whose sizes are items even if others beat them, as those of what runs.
    """
    items = tuple(_items(request))
    pools = shared_limits(request.devices, request.host_memory_bytes)
    needs = needs_of(request)
    spare = Spare(most_useful(needs), in_use((*request.running, *also), items))
    groups = tuple(_groups(request, items, pools, spare))
    fitting = {items[i].model for i in {i for g in unlike(groups) for fit in g.fits for i in fit}}
    placeable = fitting - without_neighbours(needs, fitting)
    planned = with_lifts(request, [n for n in needs if n.model in placeable])
    if placeable != fitting:
        left = tuple(item for item in items if item.model in placeable)
        groups = tuple(_groups(request, left, pools, spare))
    group_of = {b: g.index for g in groups for b in g.bins}
    return Instance(
        request=request,
        items=items,
        groups=groups,
        group_of=tuple(group_of[b] for b in range(len(request.devices))),
        pools=pools,
        needs=planned,
        hopeless=tuple(n.model for n in needs if n.model not in placeable),
        ties=ties_of(request, planned),
    )


def allowed_on(rules: PlacementRules, device: Device) -> bool:
    """Whether `only_on` is empty, or names the device, its host, its rack or its hardware."""
    return not rules.only_on or not names_of(device).isdisjoint(rules.only_on)


def _items(request: PlanRequest) -> Iterable[Item]:
    kinds = {d.hardware: d.kind for d in request.devices}
    usual = {mode: request.interference.kappa(mode) for mode in SharingMode}
    charged = charges_replicas(request)
    index = itertools.count()
    for model, demand in enumerate(request.models):
        units = units_of(demand)
        for c in demand.candidates:
            if c.hardware not in kinds:
                continue
            on_cpu = kinds[c.hardware] is DeviceKind.CPU
            mode = c.size.mode
            # A MIG instance has its own SMs and memory, and takes no share of other instances'.
            in_mig = mode is SharingMode.MIG
            yield Item(
                index=next(index),
                model=model,
                candidate=c,
                memory_bytes=c.memory_bytes,
                sm=c.size.sm_percent if mode is SharingMode.MPS else 0,
                busy=0 if in_mig else down(c.busy, SHARE_SCALE),
                cores=c.size.cores,
                host_bytes=c.memory_bytes if on_cpu else c.host_memory_bytes,
                load_bytes=max(1, weights_of(c)),
                kappa=0.0 if in_mig else usual[mode] if c.kappa is None else c.kappa,
                mig_profile=c.size.mig_profile if in_mig else "",
                way=(mode, demand.isolation_group if mode is SharingMode.MPS else ""),
                cost=item_units(demand, c) if charged else 0,
                units=units,
            )


def _groups(
    request: PlanRequest, items: tuple[Item, ...], pools: tuple[Pool, ...], spare: Spare
) -> Iterable[Group]:
    # Interchangeable devices hold the same and cost the same.
    alike: dict[tuple[object, ...], list[int]] = {}
    prices = device_units(request)
    bound_to = [model.rules for model in request.models if model.rules.only_on]
    room = _rooms(request.devices, items)
    for index, device in enumerate(request.devices):
        allowed = tuple(allowed_on(rules, device) for rules in bound_to)
        kind = (_limits(device, room[index]), _pools_of(index, pools), prices[index], allowed)
        alike.setdefault(kind, []).append(index)
    ways: dict[object, Ways] = {}
    here_by: dict[float, tuple[Item, ...]] = {}
    for index, ((limits, _, _, allowing), bins) in enumerate(alike.items()):
        device = request.devices[bins[0]]
        drawn = _pools_of(bins[0], pools)
        shared = {pools[number].kind for number in drawn} | ({"cores"} if device.cores else set())
        hosts = [pools[number].capacity for number in drawn if pools[number].kind == "host"]
        on_host = min(hosts if device.kind is DeviceKind.GPU else (), default=math.inf)
        if on_host not in here_by:
            fitting = (it for it in items if it.candidate.host_memory_bytes <= on_host)
            here_by[on_host] = tuple(fitting)
        here = here_by[on_host]
        # Groups that differ only in the host they draw from can hold the same items.
        same = (limits, allowing, frozenset(shared), len(here) == len(items) or on_host)
        if same not in ways:
            ways[same] = _ways(request, device, here, dataclasses.replace(spare, shared=shared))
        options, fits, held = ways[same]
        yield Group(
            index=index,
            bins=tuple(bins),
            hardware=device.hardware,
            memory_bytes=room[bins[0]],
            cores=len(device.cores),
            price=prices[bins[0]],
            pools=drawn,
            options=options,
            fits=fits,
            sm_percent=max(0, 100 - device.occupied_sm_percent),
            held=held,
        )


def _rooms(devices: tuple[Device, ...], items: tuple[Item, ...]) -> list[int]:
    """Return each device's memory, rounded down to a divisor common to all sizes it may hold.

    No sum of footprints lies in between, so devices whose free memory differs by a tiny amount
    stay interchangeable.
    """
    grains: dict[str, int] = {}
    for it in items:
        grain = grains.get(it.candidate.hardware, math.gcd(*MODE_OVERHEAD_BYTES.values()))
        grains[it.candidate.hardware] = math.gcd(grain, it.memory_bytes)
    return [
        usable_bytes(d) // grain * grain for d in devices for grain in (grains.get(d.hardware, 1),)
    ]


def _limits(device: Device, room: int) -> object:
    """Return a key of everything about a device that decides what it can hold at present."""
    return (
        device.hardware,
        room,
        len(device.cores),
        tuple(sorted(open_modes(device))),
        device.max_replicas,
        device.occupied_sm_percent,
        device.mps_group,
        *_mig_limits(device),
    )


def _mig_limits(device: Device) -> tuple[object, ...]:
    """Return a key of everything that decides which GPU instances a device can hold, and where."""
    occupied = tuple(sorted(set(device.occupied_slices)))
    if SharingMode.MIG not in device.modes:
        return (bool(occupied),)
    # A UUID is unique on every GPU; only an instance's place and size decide.
    instances = tuple(
        sorted(
            (*place_of(i), i.memory_bytes, bool(i.uuid) and not i.busy)
            for i in device.mig_instances
        )
    )
    return (occupied, instances, device.mig_fixed, device.mig_profiles)


def _ways(request: PlanRequest, device: Device, items: tuple[Item, ...], spare: Spare) -> Ways:
    """Return the options of a device, and the items that each option can hold."""
    import numpy as np  # not at the top: the daemon loads this module, but solves elsewhere

    allowed = [allowed_on(demand.rules, device) for demand in request.models]
    fitting = {it.index: it for it in _fitting(device, items, spare.keep) if allowed[it.model]}
    by_way = by_key((o.way, o) for o in options_of(device, request.interference, fitting.values()))
    of_way: dict[Way, list[Item]] = by_key((it.way, it) for it in fitting.values())
    options: list[Option] = []
    fits: list[tuple[int, ...]] = []
    holds: Holds = {}
    for way, ways in by_way.items():
        there = fitting.values() if way[0] is None else of_way[way]
        mine = [item for item in there if _may_be(item, way, request)]
        levels = sorted({option.level for option in ways})
        borne = {item.index: _bears(item, levels, request) for item in mine}
        held = without_beaten({i: x for i, x in borne.items() if x}, way[0], fitting, spare)
        ordered = np.array(sorted(held), dtype=np.int64)
        bounds = [(held[i], fitting[i].kappa, fitting[i].busy) for i in ordered.tolist()]
        level, kappa, busy = np.array(bounds, dtype=np.float64).reshape(-1, 3).T
        holds[way] = held
        for option in ways:
            bears = level >= option.level
            if option.mode is not None:
                bears &= (kappa <= option.kappa) & (busy <= option.busy_limit[1])
            fit = tuple(ordered[bears].tolist())
            # Of the options that hold the same items at a level, the least kappa is enough.
            last = (options[-1].mode, options[-1].level, fits[-1]) if fits else None
            if fit and last != (option.mode, option.level, fit):
                options.append(option)
                fits.append(fit)
    return tuple(options), tuple(fits), holds


def _pools_of(index: int, pools: tuple[Pool, ...]) -> tuple[int, ...]:
    return tuple(p.index for p in pools if index in p.bins)


def _fitting(device: Device, items: tuple[Item, ...], keep: Collection[int]) -> list[Item]:
    """Return the items that fit an empty device of this kind, and those to keep in any case."""
    modes, cores = open_modes(device), len(device.cores)
    found = [
        item
        for item in items
        if item.candidate.hardware == device.hardware
        and item.candidate.size.mode in modes
        and _has_memory(device, item)
        and item.sm <= 100 - device.occupied_sm_percent
        and (item.way[0] is not SharingMode.MPS or device.mps_group in {None, item.way[1]})
        and (not cores or item.cores <= cores)
    ]
    in_shares = (item for item in found if item.candidate.size.mode is SharingMode.MEMORY)
    shares = by_key((item.model, item) for item in in_shares)
    return [it for it in found if it.index in keep or not _redundant(it, shares[it.model])]


def _has_memory(device: Device, item: Item) -> bool:
    """Whether the device, or the MIG instance that the item needs, has enough memory for it."""
    mode = item.candidate.size.mode
    if mode is not SharingMode.MIG:
        return item.memory_bytes + mode_overhead_bytes(mode) <= usable_bytes(device)
    geometry = geometry_on(device)
    position = None if geometry is None else geometry.index(item.mig_profile)
    if geometry is None or position is None:
        return False
    room = instance_bytes(geometry.profiles[position])
    return item.memory_bytes <= room and geometry.holds(geometry.radix[position])


def _redundant(item: Item, shares: list[Item]) -> bool:
    """Whether an unshared memory share of the same model is at least as good as a whole device."""
    return item.candidate.size.mode is SharingMode.WHOLE and any(
        all(x <= y for x, y in zip(_alone(share), _alone(item), strict=True)) for share in shares
    )


def _alone(it: Item) -> tuple[float, ...]:
    """Return costs and negated gains of a replica alone on a device; less is better."""
    c = it.candidate
    return (
        -c.capacity_req_per_s, it.memory_bytes, it.busy, it.cores, it.host_bytes, it.cost,
        c.ttft_p95_seconds, c.tpot_p95_seconds,
    )  # fmt: skip


def _may_be(item: Item, way: Way, request: PlanRequest) -> bool:
    """Whether isolation allows the item on a device run its way, or alone if the mode is None."""
    own, isolation = item.candidate.size.mode, request.models[item.model].isolation
    # In mode MIG an instance is isolated by hardware, whatever runs in other instances.
    walled = isolation is Isolation.HARDWARE and own is SharingMode.MIG
    if way[0] is None:
        return not walled and (isolation is not Isolation.SHARED or own is SharingMode.WHOLE)
    return isolation is Isolation.SHARED or walled


def _bears(item: Item, levels: list[float], request: PlanRequest) -> float:
    """Return the highest level at which the item holds its model's SLO; 0 if there is none."""
    slo, c = request.models[item.model].slo, item.candidate
    if slo is None:
        return levels[-1]
    return max(
        (
            level
            for level in levels
            if c.ttft_p95_seconds * level <= slo.ttft_seconds * (1 + TOLERANCE)
            and c.tpot_p95_seconds * level <= slo.tpot_seconds * (1 + TOLERANCE)
        ),
        default=0.0,
    )


def open_modes(device: Device) -> tuple[SharingMode, ...]:
    """Return the sharing modes in which the device can take a replica as it is.

    None on a cordoned device. If foreign processes hold GPU instances or run under MPS, the mode is
    fixed: it cannot be changed while they run.
    """
    if device.cordoned or device.max_replicas == 0:
        return ()
    if device.occupied_slices:
        return tuple(m for m in device.modes if m is SharingMode.MIG)
    if device.occupied_sm_percent:
        return tuple(m for m in device.modes if m is SharingMode.MPS)
    return device.modes


def options_of(device: Device, interference: Interference, items: Iterable[Item]) -> list[Option]:
    """Return all options of a device: alone first, then mode by isolation group by level by kappa.

    Levels ascend, and kappas within a level, so the first option that holds a set of replicas is
    the one at the replicas' own level and kappa.

    Args:
        device: the device; its modes and limits count, not its size.
        interference: the levels.
        items: items that may be on the device; only their kappas are used.
    """
    there = list(items)
    modes = open_modes(device)
    found = []
    # No replica is alone on a device where foreign processes are known to compute.
    if modes and not (device.occupied_slices or device.occupied_sm_percent):
        found.append(Option(None, 1.0, 1, (0, SHARE_SCALE), math.inf, 0))
    ways = {it.way for it in there if it.candidate.size.mode is not SharingMode.WHOLE}
    for mode, group in sorted(ways, key=lambda way: (modes.index(way[0]), way[1])):
        mine = [item for item in there if item.way == (mode, group)]
        geometry = geometry_on(device) if mode is SharingMode.MIG else None
        cores = min(item.cores for item in mine)
        limits = [MAX_REPLICAS_PER_DEVICE[mode]]
        limits += [len(device.cores) // cores] if device.cores and cores else []
        limits += [device.max_replicas] if device.max_replicas is not None else []
        limits += [geometry.most] if geometry is not None else []
        kappas = sorted({item.kappa for item in mine})
        free = max(kappas) == 0 and not any(item.busy for item in mine)
        levels = (1.0,) if free else interference.levels_of(mode)
        for level, kappa in itertools.product(levels, kappas):
            crowd = min(limits) if kappa == 0 else math.floor((level - 1) / kappa + 1 + TOLERANCE)
            count = min(*limits, crowd)
            option = Option(
                mode=mode,
                level=level,
                max_items=count,
                busy_limit=tuple(
                    math.ceil(at_most(level, kappa, n) * SHARE_SCALE) for n in range(count + 1)
                ),
                kappa=kappa,
                overhead_bytes=mode_overhead_bytes(mode),
                geometry=geometry,
                mps_group=group,
            )
            found.append(option)
    return [option for option in found if option.max_items > 0]
