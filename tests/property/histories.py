"""Generates histories of a host: events of plans, people, engines, drivers and the daemon.

A history is a list of numbers, one for each event; each number encodes the event, its subject and
its manner. A history can therefore be drawn at random, repeated, and shrunk to what matters.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence

from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare, Partition
from partitiond.core.hardware.room import fits, overlap
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.observation import (
    ALLOCATING,
    LIVE,
    Action,
    DrainReplica,
    ObservedReplica,
    SleepReplica,
    StartEngine,
    StopEngine,
    StopReason,
    WakeReplica,
)
from partitiond.core.replica.reconcile import reconcile, restart_seconds
from partitiond.core.replica.sleep import STOPPED, asleep_partition, stays
from partitiond.core.replica.states import ENDING, ReplicaEvent, ReplicaState
from partitiond.core.units import MIB, Bytes
from tests.core.simulated_host import POLICY, SimulatedHost, placement

MODELS = ("a", "b", "c", "d")
CORES = 4
MEMORY_MIB = 400
PASSES = 200
"""Passes until a calm host must have come to rest."""
DEVICES = ("cpu", "gpu-0", "gpu-1")
SERVING, STARTING, FAILED = ReplicaState.SERVING, ReplicaState.STARTING, ReplicaState.FAILED
SILENT = frozenset({STARTING, ReplicaState.FALLING_ASLEEP, ReplicaState.SLEEPING,
                    ReplicaState.WAKING})  # fmt: skip
"""States in which an engine has no requests."""


def partitions(rng: random.Random, device_id: str) -> list[Partition]:
    """Partitions that fit beside each other on one device, of one mode."""
    memory = MEMORY_MIB
    found: list[Partition] = []
    percent, first, group = 100, 0, rng.choice(["", "b"])
    mig = device_id == "gpu-0" and rng.random() < 0.3
    cores = list(range(CORES))
    rng.shuffle(cores)
    while rng.random() < 0.75:
        mib = rng.choice([50, 100, 200])
        size = rng.choice([1, 1, 2, 4])
        if mib > memory:
            break
        if device_id == "cpu":
            if size > len(cores):
                break
            own, cores = sorted(cores[:size]), cores[size:]
            found.append(CpuCores(device_id, Bytes(mib * MIB), tuple(own)))
        elif mig:
            if first + size > 8:
                break
            found.append(MigSlice(device_id, Bytes(mib * MIB), f"{size}g", first, size))
            first += size
        else:
            share = size * 20
            if share > percent:
                break
            percent -= share
            found.append(MpsShare(device_id, Bytes(mib * MIB), share, isolation_group=group))
        memory -= mib
    return found


def a_plan(rng: random.Random) -> tuple[Placement, ...]:
    """A plan that fits."""
    numbers = {model: itertools.count(1) for model in MODELS}
    placed = []
    for device_id in DEVICES:
        for partition in partitions(rng, device_id):
            model = rng.choice(MODELS)
            base = placement(
                f"{model}-{next(numbers[model])}",
                device_id=device_id,
                memory_mib=partition.memory_bytes // MIB,
                batch=rng.choice([8, 16]),
            )
            placed.append(dataclasses.replace(base, partition=partition))
    rng.shuffle(placed)
    return tuple(placed)


def holds(engine: ObservedReplica) -> Partition:
    """What a live engine holds; only one that sleeps gave something up."""
    if engine.state is ReplicaState.SLEEPING:
        return asleep_partition(engine.placement, max(1, engine.sleep_level))
    return engine.placement.partition


@dataclasses.dataclass
class Host(SimulatedHost):
    """A host whose daemon may be another one than before.

    Attributes:
        adopted: engines that this daemon found, and has not seen ready yet.
    """

    adopted: set[str] = dataclasses.field(default_factory=set)

    def happen(self, generation: str, event: ReplicaEvent) -> None:
        super().happen(generation, event)
        self.adopted.discard(generation)

    def check(self) -> None:
        """No overlap, no memory twice, no more changes at a time than allowed."""
        live = self.in_state(*LIVE)
        for one, other in itertools.combinations(live, 2):
            assert not overlap(holds(one), holds(other))
        for device_id in DEVICES:
            here = [e for e in live if e.placement.device_id == device_id]
            shares = [holds(e) for e in here]
            assert sum(share.memory_bytes for share in shares) <= MEMORY_MIB * MIB
            under_mps = [share for share in shares if isinstance(share, MpsShare)]
            assert sum(share.sm_percent for share in under_mps) <= 100
            assert len({share.isolation_group for share in under_mps}) <= 1, "one MPS daemon"
            fresh = [e for e in here if e.state in ALLOCATING and e.generation not in self.adopted]
            assert len(fresh) <= 1


class History:
    """One host, from its empty beginning on. Each step checks what must hold."""

    def __init__(self) -> None:
        self.here = Host(dict.fromkeys(DEVICES, MEMORY_MIB))
        self.desired: tuple[Placement, ...] = ()
        self.hung: set[str] = set()
        self.steps: tuple[Callable[[random.Random], None], ...] = (
            self.a_pass,
            self.a_pass,
            self.a_pass,
            self.a_pass,
            self.things_go_well,
            self.things_go_well,
            self.something_ends,
            self.something_hangs,
            self.a_hung_engine_is_noticed,
            self.requests,
            self.requests,
            self.time_passes,
            self.time_passes,
            self.another_plan,
            self.the_daemon_is_killed,
            self.a_device_is_not_seen,
            self.a_device_breaks,
            self.an_engine_grows,
            self.a_model_sleeps,
            self.a_model_wakes,
            self.a_lease,
            self.files_come_and_go,
            self.the_sleep_mode_changes,
        )

    def tell(self, numbers: Sequence[int]) -> None:
        """Live through a history, and come to rest after it."""
        for number in numbers:
            rng = random.Random(number)
            rng.choice(self.steps)(rng)
        self.come_to_rest()
        self.here.asleep = {}
        self.come_to_rest()

    # --- the daemon ---------------------------------------------------------------------------

    def a_pass(self, rng: random.Random) -> None:
        """One pass; or, now and then, the beginning of one and the daemon's end."""
        actions = reconcile(self.desired, self.here.observe(), POLICY, self.here.asleep)
        killed_after = rng.randrange(4) if rng.random() < 0.05 else len(actions)
        for number, action in enumerate(actions):
            if number == killed_after:
                self.the_daemon_is_killed(rng)
                return
            self._check(action)
            self.here.apply(action)
        self.here.check()

    def the_daemon_is_killed(self, rng: random.Random) -> None:
        """The next one finds the processes, and nothing that is only remembered."""
        self.here.outgrown.clear()
        for generation, engine in list(self.here.engines.items()):
            if engine.state not in LIVE or rng.random() < 0.1:  # it ended, unseen
                del self.here.engines[generation]
                continue
            self.here.adopted.add(generation)
            self.here.engines[generation] = dataclasses.replace(
                engine,
                state=STARTING,
                state_since=self.here.now,
                in_flight=None,
                failures=0,
            )

    def _check(self, action: Action) -> None:
        match action:
            case StartEngine():
                self._check_start(action.placement)
            case DrainReplica(generation=generation):
                self._check_drain(self.here.engines[generation])
            case StopEngine(generation=generation, reason=reason):
                self._check_stop(self.here.engines[generation], reason)
            case SleepReplica(generation=generation) | WakeReplica(generation=generation):
                engine = self.here.engines[generation]
                known = engine.state is ReplicaState.QUIESCING and isinstance(action, WakeReplica)
                # One that only rests gives and takes no memory.
                assert known or engine.placement.device_id not in self.here.unknown
            case _:
                pass

    def _check_start(self, wanted: Placement) -> None:
        """Once, where there is room, with its files, after its back-off."""
        here = self.here
        assert wanted in self.desired
        assert wanted.form not in here.not_ready
        assert wanted.replica_id not in here.without_files
        live = [e for e in here.engines.values() if e.state in LIVE]
        taken = [lease for lease in here.leases if lease.device_id == wanted.device_id]
        assert fits(wanted.partition, [*taken, *map(holds, live)], MEMORY_MIB * MIB)
        for engine in live:
            same = engine.replica_id == wanted.replica_id
            same = same and engine.placement.device_id == wanted.device_id
            assert not same or engine.generation not in here.outgrown, "its place is not free"
        for engine in here.engines.values():
            same = engine.replica_id == wanted.replica_id
            same = same and same_engine(engine.placement, wanted)
            assert not same or engine.state not in LIVE or self._leaves(engine), "started twice"
            if same and engine.state is FAILED:
                waited = here.now - engine.state_since
                assert waited >= restart_seconds(engine, POLICY)

    def _leaves(self, engine: ObservedReplica) -> bool:
        leaving = engine.state in ENDING | {ReplicaState.DRAINING}
        level = self.here.asleep.get(engine.placement.model, 0)
        return leaving or not stays(level, engine.can_sleep)

    def _check_drain(self, engine: ObservedReplica) -> None:
        """Not while it is the wanted one; before its successor serves only to make way."""
        model, here = engine.placement.model, self.here
        assert engine.placement.device_id not in here.faulted
        twins = [e for e in here.engines.values() if e.replica_id == engine.replica_id and e
                 is not engine and e.state in LIVE]  # fmt: skip
        wanted = any(same_engine(p, engine.placement) and p.replica_id == engine.replica_id
                     for p in self.desired)  # fmt: skip
        stay = stays(here.asleep.get(model, 0), engine.can_sleep)
        if engine.generation in here.outgrown and model not in here.asleep:
            if wanted and not twins:
                self._check_alone(engine)
            return
        assert not wanted or twins or not stay, "drained though it is wanted"
        if engine.state is not SERVING or model in here.asleep:
            return
        missing = [p for p in self.desired if not self._runs(p)]
        if any(p.model == model for p in missing):
            device_id = engine.placement.device_id
            assert device_id not in here.unknown, "made way on a device that nobody can see"
            sleeping = [e for e in here.in_state(ReplicaState.SLEEPING)
                        if e.placement.device_id == device_id]  # fmt: skip
            assert sleeping or any(p.device_id == device_id for p in missing)

    def _check_alone(self, outgrown: ObservedReplica) -> None:
        """One that leaves although it is wanted is the only one of its model that changes."""
        coming = ENDING | {STARTING, ReplicaState.WAKING, ReplicaState.DRAINING}
        for engine in self.here.engines.values():
            same = engine.placement.model == outgrown.placement.model
            if same and engine is not outgrown:
                assert engine.state not in coming, "two at a time"

    def _runs(self, wanted: Placement) -> bool:
        return any(
            e.replica_id == wanted.replica_id and same_engine(e.placement, wanted)
            for e in self.here.in_state(SERVING)
        )

    def _check_stop(self, engine: ObservedReplica, reason: StopReason) -> None:
        age = self.here.now - engine.state_since
        match reason:
            case StopReason.DRAINED:
                assert engine.in_flight == 0
            case StopReason.DRAIN_DEADLINE:
                assert age >= POLICY.drain_deadline_seconds
            case StopReason.NOT_WANTED:
                assert engine.state in SILENT
            case StopReason.START_DEADLINE:
                assert engine.state is STARTING
                assert age >= POLICY.start_deadline_seconds
            case StopReason.FAILED:
                late = age >= POLICY.start_deadline_seconds
                assert late or engine.placement.device_id in self.here.faulted

    # --- the world ----------------------------------------------------------------------------

    def things_go_well(self, rng: random.Random) -> None:
        """Some of what is due happens."""
        due = {
            STARTING: ReplicaEvent.BECAME_READY,
            ReplicaState.FALLING_ASLEEP: ReplicaEvent.FELL_ASLEEP,
            ReplicaState.WAKING: ReplicaEvent.BECAME_READY,
            ReplicaState.STOPPING: ReplicaEvent.EXITED,
            ReplicaState.FAILING: ReplicaEvent.EXITED,
        }
        for generation, engine in list(self.here.engines.items()):
            if generation in self.hung or rng.random() < 0.3:
                continue
            if engine.state is STARTING and engine.sleep_level and rng.random() < 0.8:
                self.here.happen(generation, ReplicaEvent.FELL_ASLEEP)  # adopted asleep
            elif engine.state in due:
                self.here.happen(generation, due[engine.state])

    def something_ends(self, rng: random.Random) -> None:
        """A start fails, an engine dies, one that was told to end is gone."""
        live = [g for g, e in self.here.engines.items() if e.state in LIVE]
        if live:
            generation = rng.choice(live)
            self.hung.discard(generation)
            if self.here.engines[generation].state not in ENDING:
                self.here.happen(generation, ReplicaEvent.BROKE)
            self.here.happen(generation, ReplicaEvent.EXITED)

    def something_hangs(self, rng: random.Random) -> None:
        """It is neither ready nor dead from now on, nor can it be ended."""
        live = [g for g, e in self.here.engines.items() if e.state in LIVE]
        if live:
            self.hung.add(rng.choice(live))

    def a_hung_engine_is_noticed(self, rng: random.Random) -> None:
        """Its probes were missed, or its start took too long: its owner ends it."""
        for generation in sorted(self.hung & self.here.engines.keys()):
            engine = self.here.engines[generation]
            if engine.state in LIVE - ENDING:
                self.here.happen(generation, ReplicaEvent.BROKE)
            if rng.random() < 0.5:
                self.hung.discard(generation)

    def requests(self, rng: random.Random) -> None:
        for generation, engine in list(self.here.engines.items()):
            count = rng.choice([None, 0, 0, 1, 5])
            busy = engine.state not in SILENT
            self.here.engines[generation] = dataclasses.replace(
                engine, in_flight=count if busy else 0
            )

    def time_passes(self, rng: random.Random) -> None:
        self.here.now += rng.choice([0.5, 2.0, 9.0, 25.0, 150.0])

    def another_plan(self, rng: random.Random) -> None:
        self.desired = a_plan(rng)

    def a_device_is_not_seen(self, rng: random.Random) -> None:
        _toggle(self.here.unknown, rng.choice(DEVICES))

    def a_device_breaks(self, rng: random.Random) -> None:
        _toggle(self.here.faulted, rng.choice(DEVICES))

    def an_engine_grows(self, rng: random.Random) -> None:
        """It holds more than its share."""
        serving = [e.generation for e in self.here.in_state(SERVING)]
        if serving:
            self.here.outgrown.add(rng.choice(serving))

    def a_model_sleeps(self, rng: random.Random) -> None:
        self.here.asleep[rng.choice(MODELS)] = rng.choice([1, 2, STOPPED])

    def a_model_wakes(self, rng: random.Random) -> None:
        self.here.asleep.pop(rng.choice(MODELS), None)

    def a_lease(self, rng: random.Random) -> None:
        """A profile job takes free cores, or gives back what it had."""
        if self.here.leases:
            self.here.leases = ()
            return
        lease = CpuCores("cpu", Bytes(50 * MIB), (rng.randrange(CORES),))
        taken = [holds(e) for e in self.here.in_state(*LIVE)]
        if fits(lease, taken, MEMORY_MIB * MIB):
            self.here.leases = (lease,)

    def files_come_and_go(self, rng: random.Random) -> None:
        self.here.not_ready = tuple(m for m in MODELS if rng.random() < 0.2)
        replicas = (placement.replica_id for placement in self.desired)
        self.here.without_files = tuple(r for r in replicas if rng.random() < 0.1)

    def the_sleep_mode_changes(self, rng: random.Random) -> None:
        self.here.can_sleep = rng.random() < 0.6

    # --- the end ------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """Once the host is calm, the plan comes to run, and then nothing is left to do."""
        self.hung = set()
        self.here.settle(self.desired, PASSES)
        asleep = self.here.asleep
        for wanted in self.desired:
            found = [e for e in self.here.engines.values() if e.replica_id == wanted.replica_id]
            if wanted.model in asleep:
                assert {e.state for e in found} <= {ReplicaState.SLEEPING, FAILED,
                                                    ReplicaState.STOPPED}  # fmt: skip
            else:
                (engine,) = found
                assert engine.state is SERVING
                assert same_engine(engine.placement, wanted)
        known = {p.replica_id for p in self.desired}
        assert {e.replica_id for e in self.here.engines.values()} <= known
        assert reconcile(self.desired, self.here.observe(), POLICY, asleep) == ()


def _toggle(names: set[str], name: str) -> None:
    names.symmetric_difference_update({name})
