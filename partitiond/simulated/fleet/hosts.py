"""Simulates the hosts of a fleet: each reconciles its engines with the plan, as a daemon does.

`core.replica.reconcile` decides what to do next; it is called after every change, and every second
until the host has converged. A host that is not fine is left alone, as in production. Start times
are the estimates of `core.plan.diff`, or measured; stopping and waking take fixed times.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.host_state import FINE, HostStanding, HostState
from partitiond.core.hardware.kinds import Device, headroom_bytes
from partitiond.core.plan.costs import idle_watts
from partitiond.core.plan.diff import start_seconds
from partitiond.core.plan.record import Placement
from partitiond.core.plan.start_order import StartGains
from partitiond.core.replica.observation import (
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
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.states import ReplicaEvent, ReplicaState, step
from partitiond.simulated.fleet.events import EventTarget, SimulatedClock
from partitiond.simulated.fleet.places import FleetReplica

STOP_SECONDS: Final = 3.0
"""Time from the end of the last request until the partition is free again. Assumed."""
LOOP_SECONDS: Final = 1.0
"""Pause between two passes of a host's loop while something changes."""

MakeReplica = Callable[[Placement], FleetReplica]


class SimulatedFleet:
    """State that hosts share with the simulation, and its callbacks.

    Attributes:
        asleep: sleep level by model that is scaled to zero; see `core.replica.sleep.STOPPED`.
        demands: requests/s by model, for the order of starts.
        measured: start time in seconds by model, if known.
        starts: engines started since the beginning.
    """

    def __init__(self, clock: SimulatedClock, make: MakeReplica) -> None:
        self.clock = clock
        self.make = make
        self.asleep: dict[str, int] = {}
        self.demands: dict[str, float] = {}
        self.measured: Mapping[str, float] = {}
        self.policy = ReconcilePolicy()
        self.starts = 0

    def serving(self, placement: Placement, replica: FleetReplica) -> None:
        """Handle that an engine serves from now on."""
        raise NotImplementedError

    def draining(self, placement: Placement, replica: FleetReplica) -> None:
        """Handle that a replica gets no new requests from now on."""
        raise NotImplementedError

    def gone(self, placement: Placement, replica: FleetReplica) -> None:
        """Handle that an engine is gone, with the requests that were in it."""
        raise NotImplementedError


@dataclasses.dataclass(slots=True, eq=False)
class HostedEngine:
    """One engine process on a host.

    Attributes:
        state: as the head knows it.
        runs: whether the process is there; it ends with its host.
    """

    placement: Placement
    generation: str
    state: ReplicaState
    since: float
    replica: FleetReplica
    runs: bool = True

    def observed(self) -> ObservedReplica:
        """Return the engine as the daemon would observe it."""
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
    """Measures the time that a device held engines, in total and by model.

    Attributes:
        held_seconds: time with at least one engine.
        by_model: the same by model, shared by the memory of the engines' partitions.
    """

    held_seconds: float = 0.0
    by_model: dict[str, float] = dataclasses.field(default_factory=dict)
    since: float = 0.0

    def advance(self, now: float, engines: Sequence[HostedEngine]) -> None:
        """Count the time up to `now`, in which these engines existed."""
        seconds, self.since = now - self.since, now
        total = sum(engine.placement.partition.memory_bytes for engine in engines)
        if seconds <= 0 or not engines:
            return
        self.held_seconds += seconds
        for engine in engines:
            model = engine.placement.model
            part = engine.placement.partition.memory_bytes / total if total else 1 / len(engines)
            self.by_model[model] = self.by_model.get(model, 0.0) + seconds * part


class FleetHost(EventTarget):
    """The devices of one daemon, and the engines on them.

    Attributes:
        desired: placements that should run on the host.
        engines: existing engines.
        meters: meters by device id.
        is_up: whether the machine runs.
    """

    def __init__(self, fleet: SimulatedFleet, name: str, devices: Sequence[Device]) -> None:
        self.name = name
        self.devices = {device.id: device for device in devices}
        self.desired: tuple[Placement, ...] = ()
        self.engines: list[HostedEngine] = []
        self.meters = {device.id: Meter(since=fleet.clock.now) for device in devices}
        self._fleet = fleet
        self._room = tuple((device.id, _engine_bytes(device)) for device in devices)
        self._generations = 0
        self._next_pass = math.inf
        self._standing: HostStanding = FINE
        self.is_up = True

    # -- outages -----------------------------------------------------------------------------

    def fail(self) -> None:
        """Let the machine end: its engines end with it. The head does not know it yet."""
        self.advance()
        self.is_up = False
        for engine in self.engines:
            if engine.runs and engine.state in LIVE:
                engine.runs = False
                self._fleet.gone(engine.placement, engine.replica)

    def boot(self) -> None:
        """Let the machine run again, without an engine."""
        self.is_up = True

    def judge(self, standing: HostStanding) -> None:
        """Take what the head knows of the host from now on."""
        known = standing.gone or (self.is_up and standing.answers)
        ended = [e for e in self.engines if known and not e.runs and e.state in LIVE]
        for engine in ended:
            engine.state = step(engine.state, ReplicaEvent.EXITED)
            engine.since = self._fleet.clock.now
        before, self._standing = self._standing, standing
        if ended or standing.state is not before.state:
            self.look()

    # -- what the head does ------------------------------------------------------------------

    def run_already(self, placements: Sequence[Placement]) -> None:
        """Let these placements serve from the beginning."""
        self.desired = tuple(placements)
        for placement in placements:
            engine = self._engine(placement, ReplicaState.SERVING)
            self._fleet.serving(placement, engine.replica)

    def want(self, placements: Sequence[Placement]) -> None:
        """Set what should run on the host from now on."""
        self.desired = tuple(placements)
        self.look()

    def look(self, after: float = 0.0) -> None:
        """Reconcile after `after` seconds, unless an earlier pass is planned."""
        when = self._fleet.clock.now + after
        if when < self._next_pass:
            self._next_pass = when
            self._fleet.clock.plan(when, self)

    def due(self, number: int) -> None:
        """Reconcile, unless there was a pass since the event was planned."""
        del number
        if self._fleet.clock.now < self._next_pass:
            return
        self._next_pass = math.inf
        if self._standing.state is not HostState.FINE:
            return
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
            StartGains(demands=fleet.demands, seconds=seconds),
        )
        for action in actions:
            self._act(action, seconds)
        if actions or any(e.state is ReplicaState.DRAINING for e in self.engines):
            self.look(LOOP_SECONDS)

    def idle_watts(self, device_id: str) -> float:
        """Return the power draw of a device without load; 0 if unknown."""
        return idle_watts(self.devices[device_id]) or 0.0

    def advance(self) -> None:
        """Advance the meters to now."""
        for device_id, meter in self.meters.items():
            mine = [
                engine
                for engine in self.engines
                if engine.placement.device_id == device_id and engine.runs and engine.state in LIVE
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
                # Only engines with sleep enabled are put to sleep, and there are none here.
                raise AssertionError(action)

    def _engine(self, placement: Placement, state: ReplicaState) -> HostedEngine:
        self._generations += 1
        replica = self._fleet.make(placement)
        engine = HostedEngine(
            placement,
            str(self._generations),
            state,
            self._fleet.clock.now,
            replica,
            runs=self.is_up,  # the head has perhaps not noticed yet that the machine is down
        )
        self.engines.append(engine)
        return engine

    def _find(self, replica_id: str, generation: str) -> HostedEngine:
        return next(
            e for e in self.engines
            if e.placement.replica_id == replica_id and e.generation == generation
        )  # fmt: skip

    def _ready(self, engine: HostedEngine) -> None:
        if engine.runs and engine.state is ReplicaState.STARTING:
            engine.state, engine.since = ReplicaState.SERVING, self._fleet.clock.now
            self._fleet.serving(engine.placement, engine.replica)
            self.look()

    def _stopped(self, engine: HostedEngine) -> None:
        if not engine.runs:
            return
        self.advance()
        engine.state, engine.since = ReplicaState.STOPPED, self._fleet.clock.now
        self._fleet.gone(engine.placement, engine.replica)
        self.look()


def _engine_bytes(device: Device) -> int:
    """Return the memory that all engines of a device may take together, as the daemon counts it."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes))
