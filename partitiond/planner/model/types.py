"""Defines the planner's request, and its form as integers.

Memory is in bytes, as given. Rates and shares are floats, and their integers are rounded outwards:
a replica's rate up and its share down, a demand down and a limit up (`figures`). Every plan of the
true figures is therefore a plan of the integers, and a bound on those bounds the true plans. The
grain is so fine that a packing of the integers misses no true limit by more than one part in a
million, which `check` and docs/planning.md allow.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import Partition, way_of
from partitiond.core.mig.geometry import Geometry
from partitiond.core.performance.interference import DEFAULT, Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Objective, Placement
from partitiond.planner.check.changes import Before
from partitiond.planner.model.figures import up
from partitiond.planner.model.pools import Pool

RATE_SCALE: Final = 10**9
"""Integers per request/s of most models; models with tiny rates have more (`Need.units`)."""
SHARE_SCALE: Final = 10**12
"""Hundreds of replicas on a device are off by less than `core.performance.interference.TOLERANCE`
together."""
PRICE_SCALE: Final = 10**9
"""Fine enough that under `min-devices` a device can cost 1 plus a tiny amount by its price."""
Way = tuple[SharingMode | None, str]
"""How a device is run: its mode (None: for one replica alone); under MPS for which isolation group,
else empty. An MPS daemon serves one group, so each group that uses MPS has a way of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything the planner needs; equal requests give equal plans.

    Attributes:
        devices: devices that may be used.
        models: models that are wanted, with candidates.
        running: placements that run now; they stay if an equally good plan keeps them.
        objective: what the plan optimises.
        time_limit_seconds: for the search. Its parts get shares of it in the solver's
            deterministic seconds, so that equal requests give equal plans on any machine.
        seed: seed of every random choice.
        plan_id: identifier of the plan.
        created_at: ISO 8601, UTC.
        host_memory_bytes: memory for engines by host name, if no CPU device states it.
        interference: kappa and levels.
        deterministic: equal requests give equal plans on any machine, but the time limit is kept
            only roughly. Otherwise the time limit is kept.
        move_price: cost of moving or restarting a replica that could stay, in devices: of the mean
            device's cost, or of a hundredth of a value that is maximised. 0 asks for the best plan
            whatever it moves.
        allow_outage: every model may have no replica for a while as the plan is applied; otherwise
            only models whose specs allow it.
        start_seconds: observed start time of a model's engines, by model.
        may_search: the search is used. Otherwise its first construction is enough, because a
            caller waits.
        all_or_nothing: under a cost objective there is no plan if not all can be served. Otherwise
            that plan is for the most goodput.
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
    interference: Interference = DEFAULT
    deterministic: bool = False
    move_price: float = 0.0
    allow_outage: bool = True
    start_seconds: tuple[tuple[str, float], ...] = ()
    may_search: bool = True
    all_or_nothing: bool = False

    @property
    def before(self) -> Before:
        """Return what the checker needs to know of the running replicas."""
        return Before(self.running, self.move_price, self.allow_outage, self.start_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One candidate of one model as integers.

    Attributes:
        units: integers per request/s, as `Need.units` of its model.
        host_bytes: memory it takes of the host (on a CPU device: its whole footprint).
        load_bytes: bytes that a start has to load, as the measure of a move.
        kappa: loss per further replica; the mode's default if none was measured.
        mig_profile: the MIG profile it needs, or empty.
        way: how a device that holds it is shared, if it is not alone there.
        cost: cost beyond its device, in 1 / PRICE_SCALE (`core.plan.costs.replica_watts`).
    """

    index: int
    model: int
    candidate: Candidate
    memory_bytes: int
    sm: int
    busy: int
    cores: int
    host_bytes: int
    load_bytes: int
    kappa: float = 0.0
    mig_profile: str = ""
    cost: int = 0
    units: int = RATE_SCALE
    way: tuple[SharingMode, str] = (SharingMode.WHOLE, "")


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One way to run a device: a sharing mode at a level and a kappa, or one replica alone.

    Interference is not linear in kappa, but it is at a given kappa. A device run at some kappa
    therefore holds replicas of at most that kappa, and all of them count with it: the largest
    kappa on a device decides, and within an option every limit stays linear.

    Attributes:
        mode: None for "alone", for which the replica brings its mode.
        max_items: number of replicas that the level allows.
        busy_limit: largest sum of `busy` for n replicas, at index n.
        kappa: loss per further replica, as given; replicas with a larger kappa do not fit.
        geometry: in mode MIG, the sets of instances that can be placed; memory does not limit then.
        overhead_bytes: memory that the mode itself takes.
        mps_group: in mode MPS, the isolation group of all its replicas.
    """

    mode: SharingMode | None
    level: float
    max_items: int
    busy_limit: tuple[int, ...]
    kappa: float
    overhead_bytes: int
    geometry: Geometry | None = None
    mps_group: str = ""

    @property
    def way(self) -> Way:
        """Return what the options of a site have in common."""
        return self.mode, self.mps_group


def rate_at(item: Item, level: float) -> int:
    """Planned rate of an item at a level of interference, rounded up."""
    return up(item.candidate.capacity_req_per_s, item.units, level)


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Devices that are interchangeable until the assignment.

    Attributes:
        bins: indices of the devices in the request.
        price: price of one device, in 1 / PRICE_SCALE.
        pools: indices of the shared limits its devices draw from.
        options: the ways to run one of its devices.
        fits: the items that each option can hold, in step with `options`.
        sm_percent: percentage of SMs available under MPS.
        held: for each way the items it can hold, with the highest level of interference that each
            one tolerates.
    """

    index: int
    bins: tuple[int, ...]
    hardware: str
    memory_bytes: int
    cores: int
    price: int
    pools: tuple[int, ...]
    options: tuple[Option, ...]
    fits: tuple[tuple[int, ...], ...]
    sm_percent: int = 100
    held: Mapping[Way, Mapping[int, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """What one model needs, as integers.

    Attributes:
        rate: requests/s to cover, rounded down; 0 if the model has no rate.
        min_replicas: of a model without a rate at least one; a rate takes what it takes.
        max_replicas: the limit, or a number that no plan reaches.
        weight: weight of the demand, with priority applied.
        avoid: names of models that never share a device with it, whichever spec says so.
        near: names of models that every host with a replica of this model must also hold.
        domain_of: for each device the number of its fault domain; empty without `survive`.
        survive_rate: rate that has to be left when any one fault domain is lost.
        survive_replicas: replicas that have to be left then: one for a model without a rate.
        units: integers per request/s of its rates.
        planned: its rate as given, in these units; `rate` is at least 1.
        priority: priority of the model; `planner.search.priorities` explains its effect.
        lift: factor beyond its weight in sums of goodput, for its priority.
    """

    model: int
    name: str
    rate: int
    min_replicas: int
    max_replicas: int
    rated: bool
    weight: float
    avoid: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    domain_of: tuple[int, ...] = ()
    survive_rate: int = 0
    survive_replicas: int = 0
    units: int = RATE_SCALE
    planned: float = 0.0
    priority: int = 0
    lift: float = 1.0

    @property
    def worth(self) -> float:
        """Return the weight of `RATE_SCALE` of its integers under MAX_GOODPUT."""
        return self.weight * self.lift * RATE_SCALE / self.units


@dataclasses.dataclass(frozen=True, slots=True)
class Ties:
    """Rules between replicas, by the models' indices in the request. Empty if there are none.

    Attributes:
        avoided: for a model, the models that never share a device with it; symmetric.
        near: for a model, the models that every host with a replica of it must also hold.
        near_to: the inverse of `near`: the models that need a replica of this model on their host.
        spread: models that have to survive the loss of a fault domain.
        host_of: for each device the number of its host.
        devices_on: for each host its devices.
        by_host: a rule names hosts or racks, so devices are interchangeable within a host only.
    """

    avoided: Mapping[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    near: Mapping[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    near_to: Mapping[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    spread: frozenset[int] = frozenset()
    host_of: tuple[int, ...] = ()
    devices_on: tuple[tuple[int, ...], ...] = ()
    by_host: bool = False

    @property
    def beyond_device(self) -> frozenset[int]:
        """Return the models whose rules go beyond one device."""
        return self.spread | frozenset(self.near) | frozenset(self.near_to)


def unlike(groups: Iterable[Group]) -> list[Group]:
    """Return one group of each set that holds the same: groups of many hosts differ only in it."""
    return [*{id(group.fits): group for group in groups}.values()]


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Instance:
    """The request as integers. `needs` leaves out models that fit nowhere (`hopeless`).

    An instance is equal to itself only, so results are cached by it without comparing its parts.
    """

    request: PlanRequest
    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    group_of: tuple[int, ...]
    pools: tuple[Pool, ...]
    needs: tuple[Need, ...]
    hopeless: tuple[int, ...]
    ties: Ties

    def rate(self, item: int, option: Option) -> int:
        """Return the planned rate of an item at an option's level, rounded up."""
        return rate_at(self.items[item], option.level)

    def pool_use(self, pool: Pool, item: int) -> int:
        """Return what an item takes from a shared limit."""
        return self.items[item].cores if pool.kind == "cores" else self.items[item].host_bytes


EngineKey = tuple[object, ...]


def engine_key(candidate: Candidate, held: Partition | Item) -> EngineKey:
    """Return a key of what an engine was started with, as far as its model and size decide it."""
    way = held.way if isinstance(held, Item) else way_of(held)
    form = (candidate.model, candidate.variant, way[1])
    return (form, candidate.size, candidate.batch, candidate.kv_cache_bytes, held.memory_bytes)
