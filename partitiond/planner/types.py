"""The request, and the same as integers.

Memory is in bytes, as given. Rates and shares are floats: their integers are rounded outwards, a
replica's rate up and its share down, a demand down and a limit up (`figures`). So every plan of the
true figures is one of the integers, and what bounds those bounds these. The grain is so fine that a
packing of the integers misses no true limit by more than one part in a million, which `check` and
docs/planning.md allow.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from partitiond.core.hardware import Device, SharingMode
from partitiond.core.interference import DEFAULT, Interference
from partitiond.core.mig import Geometry
from partitiond.core.plan import Candidate, ModelDemand, Objective, Placement
from partitiond.planner.check.changes import Before
from partitiond.planner.figures import up
from partitiond.planner.pools import Pool

RATE_SCALE: Final = 10**9
"""Integers per request/s of most models; those of tiny rates have more (`Need.units`)."""
SHARE_SCALE: Final = 10**12
"""Hundreds of replicas of a device are out by less than `core.interference.TOLERANCE` together."""
PRICE_SCALE: Final = 10**9
"""Fine enough that under `min-devices` a device can cost 1 and a trifle by its price, too."""


MOVE_BUDGET: Final = 0.03
"""Share of the running replicas that may leave their device beyond those that must, where plans
are kept up to date: a hundred replicas of three thousand, a few minutes of loading at most."""
MANY_REPLICAS: Final = 100
"""Below, a plan as good with the fewest moves is found without a budget."""


def usual_budget(wanted: float | None, running: int) -> float | None:
    """The move budget for so many running replicas, where none is asked for."""
    return MOVE_BUDGET if wanted is None and running >= MANY_REPLICAS else wanted


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
        deterministic: equal requests give equal plans on any machine, at the price of a time
            limit that is kept only roughly. Else the time limit is kept.
        workers: threads of the search.
        move_budget: share of what runs that may be stopped or moved to come closer to the best;
            None for no limit beyond what `move_price` says.
        move_price: what it costs to move or restart a replica that could stay: in devices, or as a
            share of the mean device's price, power or energy, or in percent of a value that is to
            be large. 0 asks for the best plan whatever it moves.
        allow_outage: a model may have no replica for a while as the plan is applied; else only
            those models may that say so themselves.
        start_seconds: how long engines of a model take to start, by model, where that was seen.
        may_search: the compiled search is used, and compiled first where that was never done on
            this machine. Else a plan that is found without it is enough: somebody waits.
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
    deterministic: bool = False
    workers: int = 1
    move_budget: float | None = None
    move_price: float = 0.0
    allow_outage: bool = True
    start_seconds: tuple[tuple[str, float], ...] = ()
    may_search: bool = True

    @property
    def before(self) -> Before:
        """What the checker is told of what runs."""
        return Before(self.running, self.move_price, self.allow_outage, self.start_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One candidate of one model as integers.

    Attributes:
        units: integers per request/s, as `Need.units` of its model.
        host_bytes: what it takes of the host's memory (on a CPU device: its whole footprint).
        load_bytes: what a start has to load, as the measure of a move.
        kappa: loss per further replica, the mode's default where none was measured.
        mig_profile: the MIG profile it needs, or empty.
        cost: what it costs beyond its device, in 1 / PRICE_SCALE (`core.costs.replica_watts`).
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
        kappa: loss per further replica, as it was given; replicas with more do not fit.
        geometry: in mode MIG, which sets of instances can be placed; memory does not limit then.
        overhead_bytes: memory the mode takes by itself.
    """

    mode: SharingMode | None
    level: float
    max_items: int
    busy_limit: tuple[int, ...]
    kappa: float
    overhead_bytes: int
    geometry: Geometry | None = None


def rate_at(item: Item, level: float) -> int:
    """Planned rate of an item at a level of interference, rounded up."""
    return up(item.candidate.capacity_req_per_s, item.units, level)


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Devices that are interchangeable until the assignment.

    Attributes:
        bins: indices of the devices in the request.
        price: of one device, in 1 / PRICE_SCALE.
        pools: indices of the shared limits its devices draw from.
        options: the ways to run one of its devices.
        fits: for each option, in step with `options`, the items it can hold.
        sm_percent: SMs to give away under MPS.
        held: for each sharing mode (None: alone) the items it can hold, with the highest level of
            interference that each bears.
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
    held: Mapping[SharingMode | None, Mapping[int, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """What one model needs, as integers.

    Attributes:
        rate: requests/s to cover, rounded down; 0 where it has no rate.
        min_replicas: at least one, but for a model with a rate under MAX_GOODPUT.
        max_replicas: or a number no plan reaches.
        weight: of the demand, with priority applied.
        avoid: names of models that never share a device with it, said by either.
        near: names of models of which every host that holds one of it holds one.
        domain_of: for each device the number of its fault domain; empty without `survive`.
        survive_rate: what has to be left when any one fault domain is lost.
        survive_replicas: the same in replicas: one for a model without a rate.
        units: of its rates, integers per request/s.
        planned: its rate as it was given, in them; `rate` is 1 at least.
        priority: of the model; `planner.priorities` says what it means.
        lift: how much more than its weight it counts in sums of goodput, for its priority.
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
        """What `RATE_SCALE` of its integers count under MAX_GOODPUT."""
        return self.weight * self.lift * RATE_SCALE / self.units


@dataclasses.dataclass(frozen=True, slots=True)
class Ties:
    """Rules between replicas, by the models' indices in the request. Empty where nobody has any.

    Attributes:
        avoided: for a model those that never share a device with it; symmetric.
        near: for a model those of which every host that holds it holds one.
        near_to: the same turned round: who needs one of this model beside it.
        spread: models that have to survive the loss of a fault domain.
        host_of: for each device the number of its host.
        devices_on: for each host its devices.
        by_host: a rule speaks of hosts or racks, so devices are interchangeable within a host only.
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
        """Models whose rules go beyond one device."""
        return self.spread | frozenset(self.near) | frozenset(self.near_to)


def unlike(groups: Iterable[Group]) -> list[Group]:
    """One of each that hold the same: groups that differ only in their host do; hosts are many."""
    return [*{id(group.fits): group for group in groups}.values()]


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
    ties: Ties

    def rate(self, item: int, option: Option) -> int:
        """Planned rate of an item at an option's level, rounded up."""
        return rate_at(self.items[item], option.level)

    def pool_use(self, pool: Pool, item: int) -> int:
        """What an item takes from a shared limit."""
        return self.items[item].cores if pool.kind == "cores" else self.items[item].host_bytes


EngineKey = tuple[object, ...]


def engine_key(candidate: Candidate, memory_bytes: int) -> EngineKey:
    """What an engine was started with, as far as a candidate decides it."""
    size = candidate.size
    form = (candidate.model, candidate.variant)
    return (form, size, candidate.batch, candidate.kv_cache_bytes, memory_bytes)
