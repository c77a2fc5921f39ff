"""Models a host as data for the reconciler: applies actions, and raises on broken rules."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores, Partition, PartitionSize
from partitiond.core.hardware.room import overlap
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica import observation
from partitiond.core.replica import reconcile as reconciler
from partitiond.core.replica.device_room import holds
from partitiond.core.replica.observation import (
    ALLOCATING,
    LIVE,
    Action,
    Observation,
    ObservedReplica,
)
from partitiond.core.replica.states import ENDING, ReplicaEvent, ReplicaState, step
from partitiond.core.units import MIB, Bytes

Engine = Placement | tuple[Placement, ReplicaState | Mapping[str, Any]]
"""One that serves; or is in a state; or serves otherwise than usual."""
HAPPENS = {
    "is ready": ReplicaEvent.BECAME_READY,
    "broke": ReplicaEvent.BROKE,
    "exits": ReplicaEvent.EXITED,
    "fell asleep": ReplicaEvent.FELL_ASLEEP,
}
POLICY = observation.ReconcilePolicy(
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


def on(wanted: Placement, partition: Partition) -> Placement:
    """The same on another partition."""
    return dataclasses.replace(wanted, device_id=partition.device_id, partition=partition)


CORES, MEMORY_MIB = 4, 400
"""Of each device that the plans below are for."""


@st.composite
def plans(draw: st.DrawFn) -> tuple[Placement, ...]:
    """Plans that fit: disjoint cores and memory within two devices."""
    placed: list[Placement] = []
    numbers = {model: itertools.count(1) for model in "abc"}
    for device_id in ("cpu", "cpu-b"):
        free = list(draw(st.permutations(range(CORES))))
        memory = MEMORY_MIB
        while free:
            if not draw(st.booleans()):
                break
            size = draw(st.integers(1, len(free)))
            mib = draw(st.sampled_from([50, 100, 200]))
            if mib > memory:
                break
            memory -= mib
            cores, free = free[:size], free[size:]
            model, batch = draw(st.sampled_from("abc")), draw(st.sampled_from([8, 16]))
            name = f"{model}-{next(numbers[model])}"
            placed.append(placement(name, cores, device_id=device_id, memory_mib=mib, batch=batch))
    return tuple(draw(st.permutations(placed)))


def in_words(action: Action) -> str:
    """What is asked for, without its deadline: "stop g0: drained"."""
    match action:
        case observation.StartEngine(placement=wanted):
            return f"start {wanted.replica_id}"
        case observation.SleepReplica(generation=generation, level=level):
            return f"sleep {generation} at {level}"
        case observation.StopEngine(generation=generation, reason=reason):
            return f"stop {generation}: {reason.value}"
        case _:
            verb = {"Drain": "drain", "Quies": "rest", "WakeR": "wake", "Forge": "forget"}
            return f"{verb[type(action).__name__[:5]]} {action.generation}"


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
    start_cores: dict[str, int] = dataclasses.field(default_factory=dict)
    not_ready: tuple[str, ...] = ()
    without_files: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    outgrown: set[str] = dataclasses.field(default_factory=set)
    _generations: "itertools.count[int]" = dataclasses.field(default_factory=itertools.count)

    def observe(self) -> Observation:
        return Observation(
            replicas=tuple(self.engines.values()),
            devices=tuple(
                (device, observation.Unknown("test") if device in self.unknown else mib * MIB)
                for device, mib in self.memory_mib.items()
            ),
            now=self.now,
            leases=self.leases,
            measuring=self.measuring,
            start_cores=self.start_cores,
            not_ready=self.not_ready,
            without_files=self.without_files,
            faulted=tuple(sorted(self.faulted)),
            withheld=self.withheld,
            outgrown=tuple(sorted(self.outgrown)),
        )

    def run(self, desired: tuple[Placement, ...]) -> tuple[Action, ...]:
        """One pass: observe, reconcile, act."""
        actions = reconciler.reconcile(desired, self.observe(), POLICY, self.asleep)
        for action in actions:
            self.apply(action)
        self.check()
        return actions

    def live(self, desired: Sequence[Placement], story: str) -> None:
        """Live through a story of passes and events, such as
        "> start a-1; g0 is ready; >; g0 has 2; 5 s pass; all wake": a pass that asks for a start,
        one that asks for nothing, two requests at that engine, and nobody that is to sleep.
        """
        for part in story.split("; "):
            if part.startswith(">"):
                told = ", ".join(map(in_words, self.run(tuple(desired))))
                assert told == part[1:].strip(), f"at {part!r} of {story!r}"
                continue
            who, what = part.split(maxsplit=1)
            if what in HAPPENS:
                self.happen(who, HAPPENS[what])
            elif what.startswith("has "):
                self.change(who, in_flight=None if what == "has some" else int(what[4:]))
            elif part == "all wake":
                self.asleep = {}
            elif part == "all may start":
                self.withheld, self.faulted = (), set()
            else:
                assert what == "s pass", part
                self.now += float(who)

    def change(self, generation: str, **changes: Any) -> None:
        self.engines[generation] = dataclasses.replace(self.engines[generation], **changes)

    def add(self, wanted: Placement, state: ReplicaState, **changes: Any) -> ObservedReplica:
        """An engine that is there already, however it came."""
        generation = f"g{next(self._generations)}"
        replica = ObservedReplica(
            wanted.replica_id, generation, wanted, state, 0, self.now, can_sleep=self.can_sleep
        )
        self.engines[generation] = dataclasses.replace(replica, **changes)
        return self.engines[generation]

    def happen(self, generation: str, event: ReplicaEvent) -> None:
        old = self.engines[generation]
        state = step(old.state, event)
        failures, failed_starts = old.failures, old.failed_starts
        if state is ReplicaState.FAILING:
            failed_starts += old.state is ReplicaState.STARTING
            served = self.now - old.state_since if old.state is ReplicaState.SERVING else 0.0
            failures = reconciler.failures_after(failures, served, POLICY)
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
            case observation.StartEngine(placement=wanted):
                self._start(wanted)
            case observation.DrainReplica(generation=generation):
                self.happen(generation, ReplicaEvent.DRAIN_ASKED)
            case observation.QuiesceReplica(generation=generation):
                self.happen(generation, ReplicaEvent.SLEEP_ASKED)
            case observation.SleepReplica(generation=generation, level=level):
                old = self.engines[generation]
                assert old.in_flight == 0, "a request was lost to sleep"
                assert old.placement.device_id not in self.faulted
                self.happen(generation, ReplicaEvent.LAST_REQUEST_DONE)
                self.change(generation, sleep_level=level)
            case observation.WakeReplica(generation=generation):
                assert self.engines[generation].placement.device_id not in self.faulted
                self.happen(generation, ReplicaEvent.WAKE_ASKED)
            case observation.StopEngine(generation=generation, reason=reason):
                self._stop(generation, reason)
            case observation.ForgetReplica(generation=generation):
                assert self.engines[generation].state not in LIVE
                del self.engines[generation]

    def _stop(self, generation: str, reason: observation.StopReason) -> None:
        old = self.engines[generation]
        assert old.state not in ENDING, "it is being ended already"
        if reason is observation.StopReason.DRAINED:
            assert old.in_flight == 0
        fails = (observation.StopReason.START_DEADLINE, observation.StopReason.FAILED)
        self.happen(generation, ReplicaEvent.BROKE if reason in fails else ReplicaEvent.STOP_ASKED)

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
            changing = [e for e in here if e.state in ALLOCATING]
            assert len(changing) <= max(1, self.start_cores.get(device, 0))

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
        due = {
            ReplicaState.STARTING: ReplicaEvent.BECAME_READY,
            ReplicaState.STOPPING: ReplicaEvent.EXITED,
            ReplicaState.FAILING: ReplicaEvent.EXITED,
            ReplicaState.FALLING_ASLEEP: ReplicaEvent.FELL_ASLEEP,
            ReplicaState.WAKING: ReplicaEvent.BECAME_READY,
        }
        changed = False
        for generation, engine in list(self.engines.items()):
            if engine.in_flight != 0:
                self.change(generation, in_flight=0)
                changed = True
            if engine.state in due:
                self.happen(generation, due[engine.state])
                changed = True
        return changed


def host(*there: Engine, mib: int = 1000, now: float = 0.0, **given: Any) -> SimulatedHost:
    """A host with these engines, g0 and on, since second 0; `given` are further attributes."""
    devices = dict.fromkeys(("cpu", "gpu-0", "gpu-1", "gpu-2"), mib)
    here = SimulatedHost(devices, **given)
    for one in there:
        wanted, how = one if isinstance(one, tuple) else (one, ReplicaState.SERVING)
        if isinstance(how, ReplicaState):
            here.add(wanted, how, sleep_level=int(how is ReplicaState.SLEEPING))
        else:
            here.add(wanted, **{"state": ReplicaState.SERVING, **how})
    here.now = now
    return here
