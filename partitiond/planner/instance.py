"""The request, and the same as integers: footprints round up, capacities down, here only.

Memory is in whole MiB, rates in 0.0001 requests/s, shares of a resource in millionths. What the
integers allow the true figures allow, so a packing found here passes `check`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.interference import (
    DEFAULT,
    MAX_REPLICAS_PER_DEVICE,
    TOLERANCE,
    Interference,
    device_kappa,
    mode_overhead_bytes,
)
from partitiond.core.plan import Candidate, ModelDemand, Objective, Placement
from partitiond.core.spec import Isolation
from partitiond.planner.pools import Pool, mib_up, shared_limits, usable_mib

RATE_SCALE: Final = 10_000
SHARE_SCALE: Final = 1_000_000
PRICE_SCALE: Final = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything the planner needs; equal requests give equal plans.

    Attributes:
        devices: what may be used.
        models: what is wanted, with candidates.
        running: placements that run now; they stay where a plan as good keeps them.
        objective: what the plan is good at.
        time_limit_seconds: for the search. Its parts get shares of it in the solver's
            deterministic seconds, so that equal requests give equal plans on any machine.
        seed: of every random choice.
        plan_id: identifier of the plan.
        created_at: ISO 8601, UTC.
        host_memory_bytes: memory for engines by host name, where no CPU device says it.
        host_cores_shared: a core that several devices of one host list is one core; False where
            every device brings its own.
        interference: kappa and levels.
    """

    devices: tuple[Device, ...]
    models: tuple[ModelDemand, ...]
    running: tuple[Placement, ...] = ()
    objective: Objective = Objective.MIN_DEVICES
    time_limit_seconds: float = 10.0
    seed: int = 0
    plan_id: str = "plan"
    created_at: str = ""
    host_memory_bytes: tuple[tuple[str, int], ...] = ()
    host_cores_shared: bool = True
    interference: Interference = DEFAULT


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One candidate of one model as integers.

    Attributes:
        host_mib: what it takes of the host's memory (on a CPU device: its whole footprint).
        load_bytes: what a start has to load, as the measure of a move.
        kappa: loss per further replica, the mode's default where none was measured.
    """

    index: int
    model: int
    candidate: Candidate
    memory_mib: int
    sm: int
    busy: int
    cores: int
    host_mib: int
    load_bytes: int
    kappa: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One way to run a device: a sharing mode at a level and a kappa, or one replica alone.

    Interference is not linear in kappa, but it is at a given one. So a device run at some kappa
    holds replicas of at most that kappa, and all of them count with it: the largest kappa of
    what is on a device decides, and within an option every limit stays linear.

    Attributes:
        mode: None for "alone", where the replica brings its mode.
        max_items: replicas the level allows.
        busy_limit: largest sum of `busy` for n replicas, at index n.
        kappa: loss per further replica, in millionths.
        kappa_limit: the same as it was given; replicas with more do not fit.
        overhead_mib: memory the mode takes by itself.
    """

    index: int
    mode: SharingMode | None
    level: float
    max_items: int
    busy_limit: tuple[int, ...]
    kappa: int
    overhead_mib: int
    kappa_limit: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Devices that are interchangeable until the assignment.

    Attributes:
        bins: indices of the devices in the request.
        price: of one device, in 1 / PRICE_SCALE.
        pools: indices of the shared limits its devices draw from.
        options: the ways to run one of its devices.
        fits: for each option, in step with `options`, the items it can hold.
    """

    index: int
    bins: tuple[int, ...]
    hardware: str
    memory_mib: int
    cores: int
    price: int
    pools: tuple[int, ...]
    options: tuple[Option, ...]
    fits: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """What one model needs, as integers.

    Attributes:
        rate: requests/s to cover, rounded up; 0 where it has no rate.
        min_replicas: at least one, but for a model with a rate under MAX_GOODPUT.
        max_replicas: or a number no plan reaches.
    """

    model: int
    name: str
    rate: int
    min_replicas: int
    max_replicas: int
    rated: bool
    isolated: bool
    weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """The request as integers. `needs` leaves out models that fit nowhere (`hopeless`)."""

    request: PlanRequest
    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    group_of: tuple[int, ...]
    pools: tuple[Pool, ...]
    needs: tuple[Need, ...]
    hopeless: tuple[int, ...]

    def rate(self, item: int, option: Option) -> int:
        """Planned rate of an item at an option's level, rounded down."""
        capacity = self.items[item].candidate.capacity_req_per_s / option.level
        return math.floor(capacity * RATE_SCALE + TOLERANCE)

    def memory(self, group: Group, option: Option) -> int:
        """Memory of one device for footprints, in MiB."""
        return group.memory_mib - option.overhead_mib

    def pool_use(self, pool: Pool, item: int) -> int:
        """What an item takes from a shared limit."""
        return self.items[item].cores if pool.kind == "cores" else self.items[item].host_mib


def build_instance(request: PlanRequest) -> Instance:
    """Round everything to the safe side and sort out what fits where."""
    items = tuple(_items(request))
    pools = shared_limits(request.devices, request.host_memory_bytes, request.host_cores_shared)
    needs = [_need(index, demand, request) for index, demand in enumerate(request.models)]
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


def options_of(
    modes: Iterable[SharingMode], cores: int, interference: Interference, items: Iterable[Item]
) -> list[Option]:
    """All ways to run a device that allows `modes`: alone first, then mode by level by kappa.

    Levels ascend, and kappas within a level, so the first option that holds a set of replicas is
    the one at their own level and kappa.

    Args:
        modes: sharing modes of the device.
        cores: of the device; 0 where they do not limit.
        interference: levels.
        items: what may be on the device; their kappas are the ones there are.
    """
    there = list(items)
    found = [Option(0, None, 1.0, 1, (0, SHARE_SCALE), 0, 0, math.inf)]
    for mode in modes:
        mine = [item for item in there if item.candidate.size.mode is mode]
        if mode in (SharingMode.WHOLE, SharingMode.MIG) or not mine:
            continue
        limit = MAX_REPLICAS_PER_DEVICE[mode]
        limit = min(limit, cores) if cores else limit
        kappas = sorted({item.kappa for item in mine})
        free = max(kappas) == 0 and not any(item.busy for item in mine)
        levels = (1.0,) if free else interference.levels_of(mode)
        for level, kappa in itertools.product(levels, kappas):
            found.append(_option(len(found), mode, level, kappa, limit))
    return found


def _option(index: int, mode: SharingMode, level: float, kappa: float, limit: int) -> Option:
    crowd = limit if kappa == 0 else math.floor((level - 1) / kappa + 1 + TOLERANCE)
    count = min(limit, crowd)
    return Option(
        index=index,
        mode=mode,
        level=level,
        max_items=count,
        busy_limit=tuple(_busy_limit(level, kappa, n) for n in range(count + 1)),
        kappa=math.ceil(kappa * SHARE_SCALE),
        overhead_mib=mib_up(mode_overhead_bytes(mode)),
        kappa_limit=kappa,
    )


def _busy_limit(level: float, kappa: float, count: int) -> int:
    return math.floor(level / (1 + kappa * max(0, count - 1)) * SHARE_SCALE + 1e-3)


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


def _need(index: int, demand: ModelDemand, request: PlanRequest) -> Need:
    rate = demand.demand.planned_req_per_s
    # Only for the sake of goodput may a model with a rate be left out altogether.
    optional = rate is not None and request.objective is Objective.MAX_GOODPUT
    return Need(
        model=index,
        name=demand.model,
        rate=0 if rate is None else math.ceil(rate * RATE_SCALE - TOLERANCE),
        min_replicas=max(0 if optional else 1, demand.min_replicas),
        max_replicas=demand.max_replicas if demand.max_replicas is not None else 1_000_000,
        rated=rate is not None,
        isolated=demand.isolation is Isolation.DEVICE,
        weight=demand.demand.weight,
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
