"""Defines plans: placements of replicas on partitions, predicted figures and a certificate."""

import dataclasses
import enum
from typing import Final

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import Partition, PartitionSize
from partitiond.core.model.spec import (
    NO_RULES,
    PRIORITY_FACTOR,
    Demand,
    Isolation,
    PlacementRules,
    Slo,
)
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import ZERO_BYTES, Bytes

MOVE_PRICE: Final = 0.25
"""Default price of a move, in devices: saving a device may cost fewer than four moves, because each
move loads weights and runs two engines for a while. Chosen; what it saves is measured in
docs/decisions/0015."""
MAX_MOVE_PRICE: Final = 100.0
"""Bound of the field `move_price`: a move takes all of a value, so none pays. Chosen."""
MAY_LACK: Final = 1e-6
"""Share of a demand that a model may lack and is served all the same (docs/planning.md)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a replica: an operating point on a partition size. Margins are applied.

    Attributes:
        model: model name.
        profile_id: the profile it comes from.
        profile_kind: measured, transferred or estimated.
        hardware: hardware key it is valid for.
        size: partition size (mode, cores, SM percent, MIG profile).
        batch: the proxy's limit in sequences.
        memory_bytes: footprint with the memory margin, rounded up to whole MiB.
        kv_cache_bytes: what the engine is started with.
        capacity_req_per_s: planned requests/s, margins applied.
        output_tokens_per_s: predicted throughput at the point, alone on the device.
        ttft_p95_seconds, tpot_p95_seconds: predicted latency at the point, alone.
        host_memory_bytes: host RAM of the engine's processes (on a CPU: 0, counted above).
        busy: utilisation of the shared resource alone, u of the definitions, 0..1.
        kappa: loss per further replica measured for this profile; None for the mode's default.
        variant: form of the model it runs; empty for the model itself.
        stale: why its profile no longer speaks for what runs now; empty where it does.
        watts: what it draws at the operating point beyond the idle device; None unknown.
        asleep: what its engine holds asleep; None where it is not known, or it never sleeps: then
            it counts as holding everything.
        correction: factor on its profile's rates that is in its figures, because replicas were seen
            to be slower (`core.drift.detection`); 1 for none.
        release: digest of what the model's engines are made of (`core.replica.releases`); empty
        unknown.
        weights_bytes: of the footprint; 0 where it is not known.
        dtype: of its profile, which its engine runs in; empty where it is not known.
    """

    model: str
    profile_id: str
    profile_kind: ProfileKind
    hardware: str
    size: PartitionSize
    batch: int
    memory_bytes: Bytes
    kv_cache_bytes: Bytes
    capacity_req_per_s: float
    output_tokens_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    host_memory_bytes: Bytes = ZERO_BYTES
    busy: float = 1.0
    kappa: float | None = None
    variant: str = ""
    stale: tuple[str, ...] = ()
    watts: float | None = None
    asleep: SleepingFootprint | None = None
    correction: float = 1.0
    release: str = ""
    weights_bytes: Bytes = ZERO_BYTES
    dtype: str = ""


def weights_of(candidate: Candidate) -> int:
    """Return bytes of weights that a start has to load.

    For a candidate stored before they were noted: all but its KV cache, which is rather too much.
    """
    known = candidate.weights_bytes
    return known or max(0, candidate.memory_bytes - candidate.kv_cache_bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelDemand:
    """The planner's input for one model.

    `reason` is set if the model has no candidate at all (no profile yet, fits no device); it then
    becomes the reason in `Unplaced`. `slo` bounds the latency of each replica at the interference
    of the device that it shares. `allow_outage` lets the model's last replica stop before another
    one serves. Engines of one `isolation_group` run as one system user.
    """

    model: str
    demand: Demand
    candidates: tuple[Candidate, ...]
    min_replicas: int = 0
    max_replicas: int | None = None
    isolation: Isolation = Isolation.SHARED
    reason: str = ""
    slo: Slo | None = None
    rules: PlacementRules = NO_RULES
    allow_outage: bool = False
    isolation_group: str = ""

    @property
    def planned_weight(self) -> float:
        """Value of one request/s if not everything fits: the weight, scaled by the priority."""
        return self.demand.weight * float(PRIORITY_FACTOR) ** self.rules.priority


class Objective(enum.StrEnum):
    """What the plan is good at, chosen by name."""

    MIN_DEVICES = "min-devices"
    """Serve all demand on the fewest devices; of plans with as few, take the cheapest one found.
    Models without a rate get one replica each, then whatever is free on the devices in use."""
    MIN_PRICE = "min-price"
    """The same at the least price per hour."""
    MIN_ENERGY = "min-energy"
    """The same at the least charge in watts: devices by their idle draw, and each replica by its
    part of its model's demand. Models without a rate get no further replicas."""
    MAX_GOODPUT = "max-goodput"
    """The most planned requests/s from all devices, weighted, up to each model's demand."""
    MAX_MIN = "max-min"
    """Max-min fairness: serve the worst served model, by share of its demand over its weight, as
    well as possible; then take the most goodput."""

    @property
    def is_cost(self) -> bool:
        """Whether everything is served and the value is a cost, so less is better."""
        return self.value.startswith("min-")


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """One replica of one model in one partition of one device, with its predicted figures.

    Attributes:
        replica_id: stable name "<model>-<n>"; kept across plans where the replica stays.
    """

    replica_id: str
    model: str
    device_id: str
    partition: Partition
    candidate: Candidate

    @property
    def form(self) -> str:
        """The form of the model that the replica runs: "opt-125m", or "opt-125m:fp8" (variant)."""
        return form_key(self.model, self.candidate.variant)


def form_key(model: str, variant: str) -> str:
    """Name one form of a model; neither part can hold a colon."""
    return f"{model}:{variant}" if variant else model


def model_of(form: str) -> str:
    """Return the model of a form that was named by `form_key`."""
    return form.partition(":")[0]


class Status(enum.StrEnum):
    """The four outcomes of a solve, kept apart."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    OUT_OF_TIME = "out-of-time"


@dataclasses.dataclass(frozen=True, slots=True)
class PriorityProof:
    """What is proven of the models of one priority, in weighted requests/s.

    Attributes:
        bound: no plan that is as good for higher priorities gives them more.
    """

    priority: int
    value: float
    bound: float


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven about a plan, at one objective level.

    Attributes:
        objective: the level the certificate speaks of.
        value: the plan's value (devices used or their cost; weighted requests/s), the price of its
            moves included.
        bound: no plan, or none of those that `among` describes, can be better than this.
        gap: |bound - value| / max(|value|, 1e-9). At 0 the plan is proven optimal, unless it lacks
            least replicas: `status` says whether any plan may lack fewer.
        status: optimal, feasible, infeasible, out-of-time.
        method: which member of the portfolio gave the plan, and which the bound.
        seconds: time the solve took.
        baseline_one_model_per_device: devices used when each model has devices of its own.
        best_value: the best value without the price of moves that any member found; the plan may
            give some of it away to move less. None where it is the plan's own.
        moves: running replicas that move or restart and would not have to.
        move_price: what one of them costs: in the unit of `value` if that is a cost, else as a
            share of it.
        value_without_moves, bound_without_moves: the same without that price; None where they are
            `value` and `bound`.
        for_estimates: some replica's figures are estimated: what is proven is proven for those.
        by_priority: under max-goodput, where models of other priorities than 0 count: each of
            them, the highest first. `value` and `bound` are their sums, each counting a hundred
            times the one below; optimal means that every one of them is.
        among: of which plans alone `bound` speaks and the plan may be optimal, as "with the least
            number of replicas of every model that fits a device" under max-goodput where a model
            has one; empty for all plans.
        partial: the plan does not serve all that is wanted, so it is at best the most that can be.
    """

    objective: Objective
    value: float
    bound: float
    gap: float
    status: Status
    method: str
    seconds: float
    baseline_one_model_per_device: int | None = None
    best_value: float | None = None
    moves: int = 0
    move_price: float = 0.0
    value_without_moves: float | None = None
    bound_without_moves: float | None = None
    for_estimates: bool = False
    by_priority: tuple[PriorityProof, ...] = ()
    among: str = ""
    partial: bool = False

    @property
    def optimal_words(self) -> str:
        """The words that say that no plan is better."""
        words = "the most that can be served" if self.partial else "optimal"
        if self.partial and self.objective is Objective.MAX_MIN:
            words = "the most that the worst served can get"
        return f"{words} for these estimates" if self.for_estimates else f"proven {words}"

    @property
    def own_value(self) -> float:
        """The plan's value by itself, whatever it moves."""
        return self.value if self.value_without_moves is None else self.value_without_moves

    @property
    def priority_factor(self) -> float:
        """Weight of one weighted request/s in `value` if a single priority counts; else 1, because
        sums over several priorities are no requests/s."""
        single = self.by_priority[0].priority if len(self.by_priority) == 1 else 0
        return float(PRIORITY_FACTOR) ** single

    @property
    def own_bound(self) -> float:
        """Bound on the value by itself: no plan is better, whatever it moves."""
        return self.bound if self.bound_without_moves is None else self.bound_without_moves


@dataclasses.dataclass(frozen=True, slots=True)
class Unplaced:
    """A model, or a part of its demand, that has no place, and why.

    Attributes:
        missing_req_per_s: demand not covered; None where the model has no rate or no replica.
        remedy: what would make it fit.
    """

    model: str
    reason: str
    missing_req_per_s: float | None = None
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class HeldBack:
    """A model that stays as it runs, because its change needs an outage that is not allowed.

    Attributes:
        seconds: about how long it would have no replica.
        missing_req_per_s: of its demand, until it is changed; None where it has no rate.
    """

    model: str
    seconds: float
    missing_req_per_s: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Infeasible:
    """No plan serves what was asked: why, and what would make it fit."""

    reasons: tuple[str, ...]
    remedies: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelForecast:
    """What a model gets from a plan.

    Attributes:
        watts: draw of its replicas beyond the idle devices at the planned rate; None unknown.
        output_tokens_per_s: of all its replicas at their operating points, shared as they are.
    """

    model: str
    replicas: int
    capacity_req_per_s: float
    demand_req_per_s: float | None
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None
    profile_kind: ProfileKind | None
    watts: float | None = None
    output_tokens_per_s: float = 0.0

    @property
    def headroom(self) -> float | None:
        """Share of the demand that could be added; None without a rate."""
        if not self.demand_req_per_s:
            return None
        return self.capacity_req_per_s / self.demand_req_per_s - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Replicas on partitions, predicted figures, a certificate and an explanation."""

    id: str
    placements: tuple[Placement, ...]
    devices: tuple[Device, ...]
    forecasts: tuple[ModelForecast, ...]
    unplaced: tuple[Unplaced, ...]
    certificate: Certificate
    explanation: tuple[str, ...]
    created_at: str
    """ISO 8601, UTC."""
    asleep: tuple[Placement, ...] = ()
    """Replicas of models that were asleep when it was made: their places, as they are when awake.
    The room that they left is no longer theirs; `placements` may use it."""
    held_back: tuple[HeldBack, ...] = ()
    """Models for which `placements` holds exactly what ran when the plan was made."""

    @property
    def wanted(self) -> tuple[Placement, ...]:
        """Every replica that is to have an engine, awake or asleep."""
        return (*self.placements, *self.asleep)

    def repeats(self, other: "Plan") -> bool:
        """Return whether it wants what another plan does. To wake a model in the place where it
        slept is more: until such a plan is applied the model has no place, and is given up.
        """
        is_same = set(self.wanted) == set(other.wanted)
        return is_same and set(self.placements) <= set(other.placements)

    def on_device(self, device_id: str) -> tuple[Placement, ...]:
        """Return placements on one device, in order."""
        return tuple(p for p in self.placements if p.device_id == device_id)


EMPTY_PLAN_ID = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class PlanDiff:
    """What applying a plan changes against what runs now.

    Attributes:
        start: placements to start.
        stop: placements that run now and are not wanted any more.
        move: pairs (old, new) of one replica whose partition, batch or memory changes.
        keep: placements that stay untouched.
    """

    start: tuple[Placement, ...]
    stop: tuple[Placement, ...]
    move: tuple[tuple[Placement, Placement], ...]
    keep: tuple[Placement, ...]

    @property
    def touches_nothing_running(self) -> bool:
        """Whether the plan may be applied automatically: it moves and stops no running replica."""
        return not self.stop and not self.move

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.start or self.stop or self.move)


def same_engine(old: Placement, new: Placement) -> bool:
    """Return whether a running replica can stay as it is under the new placement.

    Place, form of the model, memory, host cores, batch, KV cache and release decide what the engine
    was started with; predicted figures may differ. An unknown release does not count as another.
    """
    return (
        old.model == new.model
        and old.candidate.variant == new.candidate.variant
        and old.device_id == new.device_id
        and old.partition == new.partition
        and old.candidate.size == new.candidate.size
        and old.candidate.batch == new.candidate.batch
        and old.candidate.kv_cache_bytes == new.candidate.kv_cache_bytes
        and not other_release(old, new)
    )


def other_release(old: Placement, new: Placement) -> bool:
    """Return whether the releases of both are known and differ."""
    was, now = old.candidate.release, new.candidate.release
    return bool(was and now) and was != now


def diff_plans(running: tuple[Placement, ...], wanted: tuple[Placement, ...]) -> PlanDiff:
    """Compare placements by replica id."""
    old = {p.replica_id: p for p in running}
    new = {p.replica_id: p for p in wanted}
    both = [(old[i], new[i]) for i in old if i in new]
    return PlanDiff(
        start=tuple(p for i, p in new.items() if i not in old),
        stop=tuple(p for i, p in old.items() if i not in new),
        move=tuple((o, n) for o, n in both if not same_engine(o, n)),
        keep=tuple(n for o, n in both if same_engine(o, n)),
    )
