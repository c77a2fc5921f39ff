"""Models a host as data for the reconciler: applies actions, and raises on broken rules."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores, PartitionSize
from partitiond.core.hardware.room import overlap
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.device_room import holds
from partitiond.core.replica.observation import ALLOCATING
from partitiond.core.replica.reconcile import (
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    ObservedReplica,
    QuiesceReplica,
    ReconcilePolicy,
    SleepReplica,
    StartEngine,
    StopEngine,
    StopReason,
    Unknown,
    WakeReplica,
    failures_after,
    reconcile,
)
from partitiond.core.replica.states import ReplicaEvent, ReplicaState, step
from partitiond.core.units import MIB, Bytes

POLICY = ReconcilePolicy(
    start_deadline_seconds=100.0,
    drain_deadline_seconds=20.0,
    stop_grace_seconds=2.0,
    backoff_base_seconds=1.0,
    backoff_max_seconds=8.0,
)


def placement(
    replica_id: str,
    cores: Iterable[int] = (0,),
    *,
    device_id: str = "cpu",
    memory_mib: int = 100,
    batch: int = 8,
) -> Placement:
    """A placement "model-n" on some cores."""
    chosen = tuple(sorted(cores))
    memory = Bytes(memory_mib * MIB)
    model = replica_id.rpartition("-")[0]
    candidate = Candidate(
        model=model,
        profile_id=f"profile-{model}",
        profile_kind=ProfileKind.MEASURED,
        hardware="test-cpu",
        size=PartitionSize(SharingMode.CORES, len(chosen)),
        batch=batch,
        memory_bytes=memory,
        kv_cache_bytes=Bytes(memory // 2),
        capacity_req_per_s=1.0,
        output_tokens_per_s=100.0,
        ttft_p95_seconds=0.1,
        tpot_p95_seconds=0.01,
        asleep=SleepingFootprint(Bytes(memory // 5), Bytes(memory // 10)),
    )
    return Placement(replica_id, model, device_id, CpuCores(device_id, memory, chosen), candidate)


@dataclasses.dataclass
class SimulatedHost:
    """Engines, devices and time. `apply` checks what must never happen."""

    memory_mib: dict[str, int]
    now: float = 0.0
    engines: dict[str, ObservedReplica] = dataclasses.field(default_factory=dict)
    unknown: set[str] = dataclasses.field(default_factory=set)
    faulted: set[str] = dataclasses.field(default_factory=set)
    asleep: dict[str, int] = dataclasses.field(default_factory=dict)
    can_sleep: bool = True
    leases: tuple[CpuCores, ...] = ()
    measuring: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ()
    without_files: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    outgrown: set[str] = dataclasses.field(default_factory=set)
    _generations: "itertools.count[int]" = dataclasses.field(default_factory=itertools.count)

    def observe(self) -> Observation:
        return Observation(
            replicas=tuple(self.engines.values()),
            devices=tuple(
                (device, Unknown("test") if device in self.unknown else mib * MIB)
                for device, mib in self.memory_mib.items()
            ),
            now=self.now,
            leases=self.leases,
            measuring=self.measuring,
            not_ready=self.not_ready,
            without_files=self.without_files,
            faulted=tuple(sorted(self.faulted)),
            withheld=self.withheld,
            outgrown=tuple(sorted(self.outgrown)),
        )

    def run(self, desired: tuple[Placement, ...]) -> tuple[Action, ...]:
        """One pass: observe, reconcile, act."""
        actions = reconcile(desired, self.observe(), POLICY, self.asleep)
        for action in actions:
            self.apply(action)
        self.check()
        return actions

    def add(self, wanted: Placement, state: ReplicaState, **changes: object) -> ObservedReplica:
        """An engine that is there already, however it came."""
        generation = f"g{next(self._generations)}"
        replica = ObservedReplica(
            wanted.replica_id, generation, wanted, state, 0, self.now, can_sleep=self.can_sleep
        )
        self.engines[generation] = dataclasses.replace(replica, **changes)  # type: ignore[arg-type]
        return self.engines[generation]

    def happen(self, generation: str, event: ReplicaEvent) -> None:
        old = self.engines[generation]
        state = step(old.state, event)
        failures, failed_starts = old.failures, old.failed_starts
        if state is ReplicaState.FAILED:
            failed_starts += old.state is ReplicaState.STARTING and not old.ending
            served = self.now - old.state_since if old.state is ReplicaState.SERVING else 0.0
            failures = failures_after(failures, served, POLICY)
        awake = state is ReplicaState.SERVING
        ready = awake or state is ReplicaState.SLEEPING
        self.engines[generation] = dataclasses.replace(
            old,
            state=state,
            state_since=self.now,
            failures=failures,
            failed_starts=0 if ready else failed_starts,
            sleep_level=0 if awake else old.sleep_level,
        )

    def apply(self, action: Action) -> None:
        match action:
            case StartEngine(placement=wanted):
                self._start(wanted)
            case DrainReplica(generation=generation):
                self.happen(generation, ReplicaEvent.DRAIN_ASKED)
            case QuiesceReplica(generation=generation):
                self.happen(generation, ReplicaEvent.SLEEP_ASKED)
            case SleepReplica(generation=generation, level=level):
                old = self.engines[generation]
                assert old.in_flight == 0, "a request was lost to sleep"
                assert old.placement.device_id not in self.faulted
                self.happen(generation, ReplicaEvent.LAST_REQUEST_DONE)
                self.engines[generation] = dataclasses.replace(
                    self.engines[generation], sleep_level=level
                )
            case WakeReplica(generation=generation):
                assert self.engines[generation].placement.device_id not in self.faulted
                self.happen(generation, ReplicaEvent.WAKE_ASKED)
            case StopEngine(generation=generation, reason=reason):
                self._stop(generation, reason)
            case ForgetReplica(generation=generation):
                assert self.engines[generation].state not in LIVE
                del self.engines[generation]

    def _stop(self, generation: str, reason: StopReason) -> None:
        old = self.engines[generation]
        assert not old.ending, "it is being ended already"
        if reason is StopReason.DRAINED:
            assert old.in_flight == 0
        late = reason is StopReason.START_DEADLINE
        if reason is StopReason.FAILED and old.state is not ReplicaState.DRAINING:
            # It fails once nothing of it is left; until then it holds what it holds.
            self.engines[generation] = dataclasses.replace(old, ending=True)
        else:
            self.happen(
                generation, ReplicaEvent.DEADLINE_PASSED if late else ReplicaEvent.STOP_ASKED
            )

    def _start(self, wanted: Placement) -> None:
        assert wanted.device_id not in self.faulted, "started on a faulted device"
        assert wanted.model not in self.asleep, "started to sleep"
        assert wanted.device_id not in self.unknown, "started on a device nobody could observe"
        dead = [
            key
            for key, e in self.engines.items()
            if e.replica_id == wanted.replica_id and e.state not in LIVE
        ]
        assert wanted.replica_id not in self.withheld, "started although withheld"
        failures = max((self.engines[key].failures for key in dead), default=0)
        failed_starts = max((self.engines[key].failed_starts for key in dead), default=0)
        for key in dead:
            del self.engines[key]
        self.add(wanted, ReplicaState.STARTING, failures=failures, failed_starts=failed_starts)

    def in_state(self, *states: ReplicaState) -> list[ObservedReplica]:
        return [e for e in self.engines.values() if e.state in states]

    def check(self) -> None:
        """What must hold after every pass, whatever came before."""
        live = self.in_state(*LIVE)
        for one, other in itertools.combinations(live, 2):
            assert not overlap(holds(one), holds(other))
        for device, mib in self.memory_mib.items():
            here = [e for e in live if e.placement.device_id == device]
            assert sum(holds(e).memory_bytes for e in here) <= mib * MIB
            assert sum(e.state in ALLOCATING for e in here) <= POLICY.max_starting

    def settle(self, desired: tuple[Placement, ...], passes: int = 200) -> int:
        """Let everything go well until nothing is left to do; the number of passes it took."""
        self.unknown, self.leases, self.not_ready, self.without_files = set(), (), (), ()
        self.faulted = set()
        for taken in range(passes):
            actions = self.run(desired)
            busy = self.calm_step()
            if not actions and not busy and not self._waiting():
                return taken
            self.now += 1.0
        raise AssertionError(f"no rest after {passes} passes: {list(self.engines.values())}")

    def _waiting(self) -> bool:
        return any(e.placement.model not in self.asleep for e in self.in_state(ReplicaState.FAILED))

    def calm_step(self) -> bool:
        """Starting engines become ready, requests end, stopping engines exit."""
        moves: list[tuple[ReplicaState, Callable[[str], None]]] = [
            (ReplicaState.STARTING, lambda g: self.happen(g, ReplicaEvent.BECAME_READY)),
            (ReplicaState.STOPPING, lambda g: self.happen(g, ReplicaEvent.EXITED)),
            (ReplicaState.FALLING_ASLEEP, lambda g: self.happen(g, ReplicaEvent.FELL_ASLEEP)),
            (ReplicaState.WAKING, lambda g: self.happen(g, ReplicaEvent.BECAME_READY)),
        ]
        changed = False
        for generation, engine in list(self.engines.items()):
            if engine.in_flight != 0:
                self.engines[generation] = dataclasses.replace(engine, in_flight=0)
                changed = True
            if engine.ending and engine.state in LIVE:
                self.happen(generation, ReplicaEvent.EXITED)
                changed = True
                continue
            for state, move in moves:
                if engine.state is state:
                    move(generation)
                    changed = True
        return changed
