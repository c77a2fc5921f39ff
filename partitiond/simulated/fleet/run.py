"""Runs a fleet once: applies its plan, sends its traffic, and reports the outcome."""

import collections
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    longest_wait_seconds,
)
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.interference import DEFAULT, Interference
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.replica.sleep import STOPPED
from partitiond.simulated.fleet.arrivals import Arrival, Stream, all_over
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FleetModel
from partitiond.simulated.fleet.engine import FleetEngine
from partitiond.simulated.fleet.engine_model import EngineModel, EngineOf, route_of
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.host_costs import Host as HostCores
from partitiond.simulated.fleet.host_costs import cores_of
from partitiond.simulated.fleet.hosts import FleetHost, SimulatedFleet
from partitiond.simulated.fleet.places import FleetReplica
from partitiond.simulated.fleet.report import FleetReport, ModelReport, Resources
from partitiond.simulated.fleet.tally import Tally, together
from partitiond.simulated.steps import lean_steps

TAIL_SECONDS: Final = 600.0
"""Longest time after the last arrival in which requests may still end."""
LOOK_SECONDS: Final = 5.0
"""Simulated time between two checks whether all requests have ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet is simulated.

    Attributes:
        seconds: time in which requests arrive, without the warm-up; infinite for a whole trace.
        warm_up_seconds: time before the counted window.
        seed: seed of draws.
        max_queue, max_wait_seconds: limits of the proxy for each model.
        hold_seconds: longest wait of a request for a model that is scaled to zero.
        cold: whether no engine runs at the beginning; else the whole plan runs.
        interference: default kappas and levels.
        start_seconds: start time by model, if measured.
    """

    seconds: float
    warm_up_seconds: float = 0.0
    seed: int = 0
    max_queue: int = 256
    max_wait_seconds: float = 30.0
    hold_seconds: float = 120.0
    cold: bool = False
    interference: Interference = DEFAULT
    start_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


class RunWatcher(Protocol):
    """Watches a run from its beginning on, and may apply other plans to it.

    Attributes:
        plans: plans that were applied.
    """

    plans: int

    def begin(self, run: "FleetRun") -> None:
        """Watch this run from now on."""

    def end(self) -> None:
        """Stop watching: no more requests will arrive."""


class FleetRun(SimulatedFleet):
    """State of one run. Create one, then call `run` once.

    Attributes:
        plan: the plan that should run now.
        specs: specs of the models, by name.
        models: the proxy's state of each model.
        tallies: counted outcome of each model.
        hosts: hosts by name.
        given_up: names of the hosts that the head counts with no more.
    """

    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, ModelSpec],
        engine_of: EngineOf,
        options: FleetOptions,
        watchers: Sequence[RunWatcher] = (),
    ) -> None:
        """
        Args:
            plan: plan that runs at the beginning, or is started.
            specs: specs of all models that any plan may place.
            engine_of: how the engine of a placement behaves (see `fleet.engine_model`).
            options: how the fleet is simulated.
            watchers: make new plans; without any this one is kept.
        """
        super().__init__(SimulatedClock(), self._replica)
        self.plan = plan
        self.specs = specs
        self.options = options
        self.measured = options.start_seconds
        self._engine_of = engine_of
        self._behaviour: dict[object, EngineModel] = {}
        self._devices: dict[str, FleetDevice] = {}
        self._engines: dict[str, list[FleetEngine]] = collections.defaultdict(list)
        # Models at zero, or waking up: requests for them wait longer.
        self._waking: set[str] = set()
        names = dict.fromkeys([*(p.model for p in plan.wanted), *specs])
        opened = options.warm_up_seconds
        self.tallies = {name: Tally(specs[name].slo, opened) for name in names}
        self.models = {
            name: FleetModel(
                self.clock, self._route(name, plan.placements), self.tallies[name], options.seed + n
            )
            for n, name in enumerate(names)
        }
        by_host: dict[str, list[str]] = collections.defaultdict(list)
        devices = {device.id: device for device in plan.devices}
        for device in plan.devices:
            by_host[device.host].append(device.id)
        self.hosts = {
            name: FleetHost(self, name, [devices[one] for one in ids])
            for name, ids in by_host.items()
        }
        self._host_of = {one: self.hosts[name] for name, ids in by_host.items() for one in ids}
        cores = {
            name: HostCores(cores_of(devices[one] for one in ids)) for name, ids in by_host.items()
        }
        self._cores_of = {one: cores[name] for name, ids in by_host.items() for one in ids}
        self._watchers = tuple(watchers)
        self.given_up: frozenset[str] = frozenset()
        self._tell_demands()
        for host, placements in self._by_host(plan.placements):
            if options.cold:
                host.want(placements)
            else:
                host.run_already(placements)
        for watcher in self._watchers:
            watcher.begin(self)

    # -- plans -------------------------------------------------------------------------------

    def apply(self, plan: Plan) -> None:
        """Run this plan from now on."""
        self.plan = plan
        self._tell_demands()
        for name, model in self.models.items():
            model.route = self._route(name, plan.placements)
        for host, placements in self._by_host(plan.placements):
            host.want(placements)

    @property
    def running(self) -> tuple[Placement, ...]:
        """What the plan has on hosts that were not given up."""
        placements = self.plan.placements
        return tuple(p for p in placements if self._host_of[p.device_id].name not in self.given_up)

    def put_to_zero(self, name: str) -> None:
        """Scale a model to zero until the next request for it."""
        self.asleep[name] = STOPPED
        self._waking.add(name)
        self._awake_or_not(name)

    def wake(self, name: str) -> None:
        """Wake a model for a request."""
        if self.asleep.pop(name, None) is not None:
            self._awake_or_not(name)

    def _awake_or_not(self, name: str) -> None:
        self.models[name].route = self._route(name, self.plan.placements)
        for device_id in {p.device_id for p in self.plan.placements if p.model == name}:
            self._host_of[device_id].look()

    def _tell_demands(self) -> None:
        self.demands = {
            forecast.model: forecast.demand_req_per_s
            for forecast in self.plan.forecasts
            if forecast.demand_req_per_s is not None
        }

    def _by_host(
        self, placements: Sequence[Placement]
    ) -> Iterator[tuple[FleetHost, tuple[Placement, ...]]]:
        mine: dict[FleetHost, list[Placement]] = {host: [] for host in self.hosts.values()}
        for placement in placements:
            mine[self._host_of[placement.device_id]].append(placement)
        return ((host, tuple(found)) for host, found in mine.items())

    def _route(self, name: str, placements: Sequence[Placement]) -> ModelRoute:
        """Return the model's route as the daemon would send it to the proxy."""
        options, slo = self.options, self.specs[name].slo
        mine = [p.candidate for p in placements if p.model == name]
        slowest = max((c.ttft_p95_seconds for c in mine), default=0.0)
        bound = None if slo is None else slo.ttft_seconds
        wait = longest_wait_seconds(options.max_wait_seconds, bound, slowest)
        zero = name in self._waking
        availability = ModelAvailability.STARTING if mine else ModelAvailability.UNAVAILABLE
        return ModelRoute(
            name,
            ModelAvailability.SLEEPING if zero else availability,
            name,
            max_queue=options.max_queue,
            max_wait_seconds=max(wait, options.hold_seconds) if zero else wait,
            holds=True,
        )

    # -- engines -----------------------------------------------------------------------------

    def _replica(self, placement: Placement) -> FleetReplica:
        """Return a replica with an engine for a placement, connected to its model."""
        candidate = placement.candidate
        behaves = self._behaves(placement)
        model = self.models[placement.model]
        device = self._devices.get(placement.device_id)
        if device is None:
            mode, cores = placement.partition.mode, self._cores_of[placement.device_id]
            device = FleetDevice(self.clock, mode, self.options.interference, cores)
            self._devices[placement.device_id] = device
        route = route_of(placement, behaves, self.specs[placement.model].workload)
        replica = FleetReplica(route, self.clock, model.ended)
        replica.engine = FleetEngine(self.clock, device, candidate, behaves, replica)
        self._engines[placement.model].append(replica.engine)
        return replica

    def _behaves(self, placement: Placement) -> EngineModel:
        candidate = placement.candidate
        key = (candidate, self._host_of[placement.device_id].devices[placement.device_id].hardware)
        found = self._behaviour.get(key)
        if found is None:
            found = self._engine_of(placement)
            found = dataclasses.replace(found, steps=lean_steps(found.steps))
            self._behaviour[key] = found
        return found

    def serving(self, placement: Placement, replica: FleetReplica) -> None:
        """Let a replica serve from now on."""
        model = self.models[placement.model]
        model.add(replica)
        if placement.model in self._waking and placement.model not in self.asleep:
            self._waking.remove(placement.model)
            model.route = self._route(placement.model, self.plan.placements)

    def draining(self, placement: Placement, replica: FleetReplica) -> None:
        """Send no new requests to a replica from now on."""
        self.models[placement.model].drain(replica)

    def gone(self, placement: Placement, replica: FleetReplica) -> None:
        """Remove a replica; the requests in it are lost."""
        for request in self.models[placement.model].lose(replica):
            self.tallies[placement.model].lost(request)

    # -- the run -----------------------------------------------------------------------------

    def run(self, arrivals: Mapping[str, Iterator[Arrival]]) -> FleetReport:
        """Send these requests, and return the report."""
        options = self.options
        began = time.process_time()
        until = options.warm_up_seconds + options.seconds
        opened: list[tuple[dict[str, Resources], dict[str, int]]] = []
        # Planned first, so that a request due at the same time comes later.
        self.clock.at(
            options.warm_up_seconds, lambda: opened.append((self._resources(), self._arrived()))
        )
        streams = [
            Stream(self.clock, self.models[name], mine, until) for name, mine in arrivals.items()
        ]
        self.clock.run(options.warm_up_seconds)
        before, arrived = opened[0]
        if math.isfinite(until):
            self.clock.run(until)
        else:
            while not all_over(streams):
                self.clock.run(self.clock.now + LOOK_SECONDS)
        closed = self.clock.now
        after, counted = self._resources(), self._arrived()
        for watcher in self._watchers:
            watcher.end()
        while not self._is_idle() and self.clock.now < closed + TAIL_SECONDS:
            self.clock.run(self.clock.now + LOOK_SECONDS)
        seconds = closed - options.warm_up_seconds
        used = {name: after[name].beyond(before[name]) for name in self.models}
        parts = {
            name: tally.served(seconds, counted[name] - arrived[name])
            for name, tally in self.tallies.items()
        }
        return FleetReport(
            seconds=seconds,
            models=tuple(
                ModelReport(name, self.specs[name].slo, part, used[name])
                for name, part in parts.items()
                if part.arrivals or used[name].gpu_hours
            ),
            all=ModelReport(
                "all",
                None,
                together(self.tallies.values(), parts.values(), seconds),
                Resources.together(used.values()),
            ),
            devices=len(self.plan.devices),
            devices_used=sum(
                meter.held_seconds > 0
                for host in self.hosts.values()
                for meter in host.meters.values()
            ),
            preemptions=sum(e.preemptions for mine in self._engines.values() for e in mine),
            engine_starts=self.starts,
            plans=sum(watcher.plans for watcher in self._watchers),
            events=self.clock.events,
            cpu_seconds=time.process_time() - began,
        )

    def _is_idle(self) -> bool:
        return all(not m.in_flight and not m.waiting for m in self.models.values())

    def _arrived(self) -> dict[str, int]:
        return {name: model.arrived for name, model in self.models.items()}

    def _resources(self) -> dict[str, Resources]:
        """Return the resources that each model has used so far."""
        held: dict[str, float] = collections.defaultdict(float)
        idle: dict[str, float] = collections.defaultdict(float)
        for host in self.hosts.values():
            host.advance()
            for device_id, meter in host.meters.items():
                watts = host.idle_watts(device_id)
                for name, seconds in meter.by_model.items():
                    held[name] += seconds
                    idle[name] += seconds * watts
        return {
            name: Resources(
                gpu_hours=held[name] / 3600,
                idle_joules=idle[name],
                work_joules=work_joules(self._engines[name]),
            )
            for name in self.models
        }


def work_joules(engines: Sequence[FleetEngine]) -> float | None:
    """Return the energy of tokens beyond the idle devices; None if a replica's draw is unknown.

    As in a plan's predicted draw, every token takes the energy of the operating point.
    """
    if any(engine.candidate.watts is None for engine in engines):
        return None
    return math.fsum(
        engine.tokens * (engine.candidate.watts or 0.0) / engine.candidate.output_tokens_per_s
        for engine in engines
    )
