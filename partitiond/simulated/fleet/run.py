"""Runs a fleet once: sends its traffic to its plan, and reports the outcome."""

import collections
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    longest_wait_seconds,
)
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import DEFAULT, Interference
from partitiond.core.plan.costs import idle_watts
from partitiond.core.plan.record import Placement, Plan
from partitiond.simulated.fleet.arrivals import Arrival, Stream, all_over
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FleetModel
from partitiond.simulated.fleet.engine import FleetEngine
from partitiond.simulated.fleet.engine_model import EngineModel, EngineOf, route_of
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.places import FleetReplica
from partitiond.simulated.fleet.report import FleetReport, ModelReport, Resources
from partitiond.simulated.fleet.tally import Tally, sum_of_models

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
        interference: default kappas and levels.
    """

    seconds: float
    warm_up_seconds: float = 0.0
    seed: int = 0
    max_queue: int = 256
    max_wait_seconds: float = 30.0
    interference: Interference = DEFAULT


class FleetRun:
    """State of one run. Create one, then call `run` once.

    Attributes:
        plan: the plan that runs.
        specs: specs of the models, by name.
        models: the proxy's state of each model.
        tallies: counted outcome of each model.
    """

    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, ModelSpec],
        engine_of: EngineOf,
        options: FleetOptions,
    ) -> None:
        """
        Args:
            plan: plan that runs from the beginning.
            specs: specs of all models that the plan may place.
            engine_of: how the engine of a placement behaves (see `fleet.engine_model`).
            options: how the fleet is simulated.
        """
        self.clock = SimulatedClock()
        self.plan = plan
        self.specs = specs
        self.options = options
        self._engine_of = engine_of
        self._behaviour: dict[object, EngineModel] = {}
        self._devices: dict[str, FleetDevice] = {}
        self._engines: dict[str, list[FleetEngine]] = collections.defaultdict(list)
        names = dict.fromkeys([*(p.model for p in plan.wanted), *specs])
        opened = options.warm_up_seconds
        self.tallies = {name: Tally(specs[name].slo, opened) for name in names}
        self.models = {
            name: FleetModel(self.clock, self._route(name), self.tallies[name], options.seed + n)
            for n, name in enumerate(names)
        }
        self._known = {device.id: device for device in plan.devices}
        for placement in plan.placements:
            self.models[placement.model].add(self._replica(placement))

    def _route(self, name: str) -> ModelRoute:
        """Return the model's route as the daemon would send it to the proxy."""
        options, slo = self.options, self.specs[name].slo
        mine = [p.candidate for p in self.plan.placements if p.model == name]
        slowest = max((c.ttft_p95_seconds for c in mine), default=0.0)
        bound = None if slo is None else slo.ttft_seconds
        return ModelRoute(
            name,
            ModelAvailability.STARTING if mine else ModelAvailability.UNAVAILABLE,
            name,
            max_queue=options.max_queue,
            max_wait_seconds=longest_wait_seconds(options.max_wait_seconds, bound, slowest),
            holds=True,
        )

    def _replica(self, placement: Placement) -> FleetReplica:
        """Return a replica with an engine for a placement, connected to its model."""
        candidate = placement.candidate
        behaves = self._behaves(placement)
        model = self.models[placement.model]
        device = self._devices.get(placement.device_id)
        if device is None:
            mode = placement.partition.mode
            device = FleetDevice(self.clock, mode, self.options.interference)
            self._devices[placement.device_id] = device
        route = route_of(placement, behaves, self.specs[placement.model].workload)
        replica = FleetReplica(route, self.clock, model.ended)
        replica.engine = FleetEngine(self.clock, device, candidate, behaves, replica)
        self._engines[placement.model].append(replica.engine)
        return replica

    def _behaves(self, placement: Placement) -> EngineModel:
        candidate = placement.candidate
        key = (candidate, self._known[placement.device_id].hardware)
        found = self._behaviour.get(key)
        if found is None:
            found = self._behaviour[key] = self._engine_of(placement)
        return found

    def run(self, arrivals: Mapping[str, Iterator[Arrival]]) -> FleetReport:
        """Send these requests, and return the report."""
        options = self.options
        began = time.process_time()
        until = options.warm_up_seconds + options.seconds
        opened: list[tuple[dict[str, float | None], dict[str, int]]] = []
        # Planned first, so that a request due at the same time comes later.
        self.clock.at(
            options.warm_up_seconds, lambda: opened.append((self._work(), self._arrived()))
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
        after, counted = self._work(), self._arrived()
        while not self._is_idle() and self.clock.now < closed + TAIL_SECONDS:
            self.clock.run(self.clock.now + LOOK_SECONDS)
        seconds = closed - options.warm_up_seconds
        used = self._resources(seconds, before, after)
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
                sum_of_models(self.tallies.values(), parts.values(), seconds),
                Resources.sum_of(used.values()),
            ),
            devices=len(self.plan.devices),
            devices_used=len({placement.device_id for placement in self.plan.placements}),
            preemptions=sum(e.preemptions for mine in self._engines.values() for e in mine),
            events=self.clock.events,
            cpu_seconds=time.process_time() - began,
        )

    def _is_idle(self) -> bool:
        return all(not m.in_flight and not m.waiting for m in self.models.values())

    def _arrived(self) -> dict[str, int]:
        return {name: model.arrived for name, model in self.models.items()}

    def _work(self) -> dict[str, float | None]:
        """Return the energy of each model's tokens so far, beyond the idle devices."""
        return {name: work_joules(self._engines[name]) for name in self.models}

    def _resources(
        self,
        seconds: float,
        before: Mapping[str, float | None],
        after: Mapping[str, float | None],
    ) -> dict[str, Resources]:
        """Return what each model has used in this time; the engines of a device share it by the
        memory of their partitions."""
        held: dict[str, float] = collections.defaultdict(float)
        idle: dict[str, float] = collections.defaultdict(float)
        on = by_key((placement.device_id, placement) for placement in self.plan.placements)
        for device_id, placements in on.items():
            watts = idle_watts(self._known[device_id]) or 0.0
            total = sum(p.partition.memory_bytes for p in placements)
            for p in placements:
                part = p.partition.memory_bytes / total if total else 1 / len(placements)
                held[p.model] += seconds * part
                idle[p.model] += seconds * part * watts
        used = {}
        for name in self.models:
            first, last = before[name], after[name]
            work = None if first is None or last is None else last - first
            used[name] = Resources(held[name] / 3600, idle[name], work)
        return used


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
