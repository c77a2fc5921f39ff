"""Hosts of a fleet: each reconciles what runs on it with what is wanted, as its daemon does.

What to do next is `core.reconcile`'s decision, asked when something changed and every second until
the host is calm. How long engines take to start is `core.plan_diff`'s estimate, or what was
measured; stopping and waking take fixed times.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.costs import idle_watts
from partitiond.core.hardware import Device, headroom_bytes
from partitiond.core.observation import (
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    ObservedReplica,
    ReconcilePolicy,
    StartEngine,
    StopEngine,
)
from partitiond.core.plan import Placement
from partitiond.core.plan_diff import start_seconds
from partitiond.core.reconcile import reconcile
from partitiond.core.replica import ReplicaState
from partitiond.core.start_order import Stakes
from partitiond.simulation.fleet.clock import Due, FleetClock
from partitiond.simulation.fleet.places import FleetReplica

STOP_SECONDS: Final = 3.0
"""From the end of the last request to the partition being free again."""
LOOP_SECONDS: Final = 1.0

MakeReplica = Callable[[Placement], FleetReplica]


class Fleet:
    """What hosts share with the simulation around them.

    Attributes:
        asleep: level by model that is to be at zero; see `core.sleep.STOPPED`.
        demands: requests/s by model, for the order of starts.
        measured: start in seconds by model, where known.
        starts: engines started since the beginning.
    """

    def __init__(self, clock: FleetClock, make: MakeReplica) -> None:
        self.clock = clock
        self.make = make
        self.asleep: dict[str, int] = {}
        self.demands: dict[str, float] = {}
        self.measured: Mapping[str, float] = {}
        self.policy = ReconcilePolicy()
        self.starts = 0

    def serving(self, placement: Placement, replica: FleetReplica) -> None:
        """An engine serves from now on."""
        raise NotImplementedError

    def draining(self, placement: Placement, replica: FleetReplica) -> None:
        """It gets nothing new from now on."""
        raise NotImplementedError

    def gone(self, placement: Placement, replica: FleetReplica) -> None:
        """It is no more, with what it was doing."""
        raise NotImplementedError


@dataclasses.dataclass(slots=True, eq=False)
class Engine:
    """One engine process on a host."""

    placement: Placement
    generation: str
    state: ReplicaState
    since: float
    replica: FleetReplica

    def observed(self) -> ObservedReplica:
        """As the daemon would see it."""
        return ObservedReplica(
            self.placement.replica_id,
            self.generation,
            self.placement,
            self.state,
            self.replica.sequences,
            self.since,
        )


@dataclasses.dataclass(slots=True)
class Meter:
    """Time that a device held engines, and whose time that was.

    Attributes:
        held_seconds: with at least one engine.
        by_model: the same, shared by what the engines' partitions hold of its memory.
    """

    held_seconds: float = 0.0
    by_model: dict[str, float] = dataclasses.field(default_factory=dict)
    since: float = 0.0

    def advance(self, now: float, engines: Sequence[Engine]) -> None:
        """Count the time up to now, in which these engines were there."""
        seconds, self.since = now - self.since, now
        total = sum(engine.placement.partition.memory_bytes for engine in engines)
        if seconds <= 0 or not engines:
            return
        self.held_seconds += seconds
        for engine in engines:
            model = engine.placement.model
            part = engine.placement.partition.memory_bytes / total if total else 1 / len(engines)
            self.by_model[model] = self.by_model.get(model, 0.0) + seconds * part


class Host(Due):
    """The devices of one daemon, and the engines on them.

    Attributes:
        desired: what is to run here.
        engines: those that there are.
        meters: by device.
    """

    def __init__(self, fleet: Fleet, devices: Sequence[Device]) -> None:
        self.devices = {device.id: device for device in devices}
        self.desired: tuple[Placement, ...] = ()
        self.engines: list[Engine] = []
        self.meters = {device.id: Meter(since=fleet.clock.now) for device in devices}
        self._fleet = fleet
        self._room = tuple((device.id, _engine_bytes(device)) for device in devices)
        self._generations = 0
        self._next_pass = math.inf

    def run_already(self, placements: Sequence[Placement]) -> None:
        """These serve from the beginning."""
        self.desired = tuple(placements)
        for placement in placements:
            engine = self._engine(placement, ReplicaState.SERVING)
            self._fleet.serving(placement, engine.replica)

    def want(self, placements: Sequence[Placement]) -> None:
        """From now on this is to run here."""
        self.desired = tuple(placements)
        self.look()

    def look(self, after: float = 0.0) -> None:
        """Reconcile after so many seconds, unless that happens sooner anyway."""
        when = self._fleet.clock.now + after
        if when < self._next_pass:
            self._next_pass = when
            self._fleet.clock.plan(when, self)

    def due(self, number: int) -> None:
        """Time for a pass, unless there was one since this was planned."""
        del number
        if self._fleet.clock.now < self._next_pass:
            return
        self._next_pass = math.inf
        fleet, here = self._fleet, self.devices
        seconds = {
            p.replica_id: start_seconds(p, here[p.device_id].kind, fleet.measured)[0]
            for p in self.desired
        }
        seen = Observation(
            tuple(engine.observed() for engine in self.engines), self._room, fleet.clock.now
        )
        actions = reconcile(
            self.desired,
            seen,
            fleet.policy,
            fleet.asleep,
            Stakes(demands=fleet.demands, seconds=seconds),
        )
        for action in actions:
            self._act(action, seconds)
        if actions or any(e.state is ReplicaState.DRAINING for e in self.engines):
            self.look(LOOP_SECONDS)

    def idle_watts(self, device_id: str) -> float:
        """What a device draws without load; 0 where that is not known."""
        return idle_watts(self.devices[device_id]) or 0.0

    def advance(self) -> None:
        """Bring the meters up to now."""
        for device_id, meter in self.meters.items():
            mine = [
                engine
                for engine in self.engines
                if engine.placement.device_id == device_id and engine.state in LIVE
            ]
            meter.advance(self._fleet.clock.now, mine)

    def _act(self, action: Action, seconds: Mapping[str, float]) -> None:
        fleet, now = self._fleet, self._fleet.clock.now
        match action:
            case StartEngine(placement=placement):
                self.advance()
                self.engines = [
                    e for e in self.engines
                    if e.state in LIVE or e.placement.replica_id != placement.replica_id
                ]  # fmt: skip
                engine = self._engine(placement, ReplicaState.STARTING)
                fleet.starts += 1
                ready = now + seconds[placement.replica_id]
                fleet.clock.at(ready, lambda: self._ready(engine))
            case DrainReplica(replica_id=replica_id, generation=generation):
                engine = self._find(replica_id, generation)
                engine.state, engine.since = ReplicaState.DRAINING, now
                fleet.draining(engine.placement, engine.replica)
            case StopEngine(replica_id=replica_id, generation=generation):
                engine = self._find(replica_id, generation)
                engine.state, engine.since = ReplicaState.STOPPING, now
                fleet.clock.at(now + STOP_SECONDS, lambda: self._stopped(engine))
            case ForgetReplica(replica_id=replica_id, generation=generation):
                self.engines.remove(self._find(replica_id, generation))
            case _:
                # Only engines that can sleep rest, and here none is started so.
                raise AssertionError(action)

    def _engine(self, placement: Placement, state: ReplicaState) -> Engine:
        self._generations += 1
        replica = self._fleet.make(placement)
        engine = Engine(placement, str(self._generations), state, self._fleet.clock.now, replica)
        self.engines.append(engine)
        return engine

    def _find(self, replica_id: str, generation: str) -> Engine:
        return next(
            e for e in self.engines
            if e.placement.replica_id == replica_id and e.generation == generation
        )  # fmt: skip

    def _ready(self, engine: Engine) -> None:
        if engine.state is ReplicaState.STARTING:
            engine.state, engine.since = ReplicaState.SERVING, self._fleet.clock.now
            self._fleet.serving(engine.placement, engine.replica)
            self.look()

    def _stopped(self, engine: Engine) -> None:
        self.advance()
        engine.state, engine.since = ReplicaState.STOPPED, self._fleet.clock.now
        self._fleet.gone(engine.placement, engine.replica)
        self.look()


def _engine_bytes(device: Device) -> int:
    """What all engines of a device may take together, as the daemon counts it."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes))
