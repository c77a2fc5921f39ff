"""Replays a plan in simulated time: its replicas, its devices, the demand.

Two loads answer two questions. `OfferedLoad.FULL` holds every replica at its operating point, to
which the plan's throughput, TTFT and TPOT refer: like is compared with like. `OfferedLoad.DEMAND`
sends Poisson arrivals at the rate that the plan claims to serve: does the SLO hold with queueing
and admission, which a closed loop at the engines does not have?
"""

import collections
import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    longest_wait_seconds,
)
from partitiond.core.performance.interference import DEFAULT, Interference
from partitiond.core.plan.record import Plan
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.dispatch import SimulatedModel, SimulatedReplica, SimulatedRequest
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.host import Host, cores_of
from partitiond.simulated.replay.models import EngineOf, SimulatedTraffic, route_of
from partitiond.simulated.replay.outcome import Observer, Outcome
from partitiond.simulated.replay.promise import Promise, promises
from partitiond.simulated.replay.traffic import closed_traffic, open_traffic

SEEDS_APART: Final = 100_003
"""Distance of the seeds of two replays; the seeds of models within one replay differ by less."""
UNBOUNDED_QUANTILE: Final = 0.95
"""Without an SLO, this share of requests has to be answered at all. Chosen."""
LOOKS: Final = 40
LOOKS_EACH: Final = 10
"""Checks whether every request of the window has ended: in total, and within the time of the
longest expected request."""


class OfferedLoad(enum.StrEnum):
    """The load that is sent."""

    DEMAND = "demand"
    """Poisson arrivals at the rate that the plan claims to serve."""
    FULL = "full"
    """Every replica holds as many requests as its limit allows, as when its operating point was
    measured: the proxy does not count KV tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a plan is replayed.

    Attributes:
        seconds: shortest window.
        warm_up_requests: warm-up before the window, in expected request times.
        window_requests: shortest window, in expected request times.
        factor: multiplies the rate that the plan claims to serve; above 1 is overload.
        seed: seed of arrivals, lengths and draws.
        max_queue: length of each model's queue at the proxy.
        max_wait_seconds: longest wait in that queue unless the SLO asks for a shorter one.
        interference: default kappas and levels.
    """

    seconds: float = 30.0
    warm_up_requests: float = 2.0
    window_requests: float = 4.0
    factor: float = 1.0
    seed: int = 0
    max_queue: int = 256
    max_wait_seconds: float = 30.0
    interference: Interference = DEFAULT


@dataclasses.dataclass(frozen=True, slots=True)
class ModelReplay:
    """One model: what the plan promised, and the outcome."""

    promise: Promise
    outcome: Outcome
    quantile: float

    @property
    def holds_slo(self) -> bool:
        """Whether the share of good requests reached the SLO's quantile."""
        share = self.outcome.attainment
        return share is None or share >= self.quantile


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """A plan's replay under one load.

    Attributes:
        load: the load that was sent.
        models: models that the plan places, in the order of its forecasts.
        seconds: length of the window.
    """

    load: OfferedLoad
    models: tuple[ModelReplay, ...]
    seconds: float


def replay_plan(
    plan: Plan,
    traffic: Sequence[SimulatedTraffic],
    engine_of: EngineOf,
    load: OfferedLoad = OfferedLoad.DEMAND,
    options: ReplayOptions | None = None,
) -> Replay:
    """Run a plan in simulated time.

    Args:
        plan: the plan to replay.
        traffic: lengths and SLO of every model that the plan places.
        engine_of: how the engine of a placement behaves (see `simulated.replay.models`).
        load: the load to send.
        options: how long and with which seed.

    Raises:
        KeyError: a placed model has no traffic.
    """
    chosen = options or ReplayOptions()
    told = {one.model: one for one in traffic}
    made = [(promise, told[promise.model]) for promise in promises(plan, chosen.interference)]
    longest = max((_request_seconds(p, t) for p, t in made), default=0.0)
    opened = chosen.warm_up_requests * longest
    seconds = max(chosen.seconds, chosen.window_requests * longest)
    clock = SimulatedClock()
    replicas = _replicas(clock, plan, told, engine_of, (load, chosen.interference))
    runs = [
        _Run(
            promise,
            one,
            _model(clock, promise, one, replicas[promise.model], chosen),
            Observer(opened, opened + seconds),
        )
        for promise, one in made
    ]
    for number, run in enumerate(runs):
        run.send(clock, load, chosen, number, lambda: _is_over(clock, runs))
    _run_to_the_end(clock, runs, opened + seconds, longest + chosen.max_wait_seconds)
    return Replay(load, tuple(run.replay() for run in runs), seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """One model in a replay."""

    promise: Promise
    traffic: SimulatedTraffic
    model: SimulatedModel
    observer: Observer

    def send(
        self,
        clock: SimulatedClock,
        load: OfferedLoad,
        options: ReplayOptions,
        number: int,
        is_over: Callable[[], bool],
    ) -> None:
        """Schedule the model's traffic, and report every request to the observer."""
        for replica in self.model.replicas:
            replica.engine.on_tokens = self.observer.tokens
        self.model.on_done = self.observer.done
        seed = options.seed * SEEDS_APART + number
        workload, sent = self.traffic.workload, self.observer.sent
        if load is OfferedLoad.FULL:
            again = closed_traffic(
                clock, self.model, workload, self.promise.slots, seed=seed, sent=sent
            )
            self.model.on_done = lambda flight: self._done(flight, again)
        elif self.promise.served_req_per_s > 0:
            rate = options.factor * self.promise.served_req_per_s
            open_traffic(clock, self.model, workload, rate, seed=seed, until=is_over, sent=sent)

    def _done(self, flight: SimulatedRequest, again: Callable[[SimulatedRequest], None]) -> None:
        self.observer.done(flight)
        again(flight)

    def replay(self) -> ModelReplay:
        """Return the model's outcome."""
        slo = self.traffic.slo
        preempted = sum(r.engine.batch.preemptions for r in self.model.replicas)
        quantile = slo.quantile if slo is not None else UNBOUNDED_QUANTILE
        return ModelReplay(self.promise, self.observer.outcome(slo, preempted), quantile)


def _request_seconds(promise: Promise, traffic: SimulatedTraffic) -> float:
    """Return the expected time of one request if every replica is full."""
    return promise.ttft_p95_seconds + traffic.workload.moments.o * promise.tpot_p95_seconds


def _replicas(
    clock: SimulatedClock,
    plan: Plan,
    told: Mapping[str, SimulatedTraffic],
    engine_of: EngineOf,
    under: tuple[OfferedLoad, Interference],
) -> dict[str, list[SimulatedReplica]]:
    """Return every replica of the plan on its device, by model."""
    load, interference = under
    host_of = {device.id: device.host for device in plan.devices}
    hosts = {
        name: Host(cores_of(device for device in plan.devices if device.host == name))
        for name in dict.fromkeys(host_of.values())
    }
    devices: dict[str, SharedDevice] = {}
    found: dict[str, list[SimulatedReplica]] = collections.defaultdict(list)
    for placement in plan.placements:
        # The host of a device that the plan does not list is unknown.
        mode, host = placement.partition.mode, hosts.get(host_of.get(placement.device_id, ""))
        device = devices.setdefault(placement.device_id, SharedDevice(mode, interference, host))
        behaves = engine_of(placement)
        batch = Batch(
            placement.candidate.batch,
            max(behaves.max_step_tokens, placement.candidate.batch),
            behaves.kv_cache_tokens,
        )
        engine = SteppedEngine(
            clock, device, placement.candidate, batch, behaves.steps, costs=behaves.costs
        )
        route = route_of(placement, behaves, told[placement.model].workload)
        if load is OfferedLoad.FULL:
            route = dataclasses.replace(route, kv_cache_tokens=0)
        found[placement.model].append(SimulatedReplica(route, engine))
    return found


def _model(
    clock: SimulatedClock,
    promise: Promise,
    traffic: SimulatedTraffic,
    replicas: Sequence[SimulatedReplica],
    options: ReplayOptions,
) -> SimulatedModel:
    bound = traffic.slo.ttft_seconds if traffic.slo is not None else None
    slowest = max(r.engine.candidate.ttft_p95_seconds for r in replicas)
    route = ModelRoute(
        name=promise.model,
        availability=ModelAvailability.SERVING,
        served_name=promise.model,
        max_queue=options.max_queue,
        max_wait_seconds=longest_wait_seconds(options.max_wait_seconds, bound, slowest),
    )
    return SimulatedModel(clock, route, replicas, options.seed)


def _is_over(clock: SimulatedClock, runs: Sequence[_Run]) -> bool:
    """Return whether the window is closed and every request of it has ended."""
    return all(run.observer.closed <= clock.now and not run.observer.pending for run in runs)


def _run_to_the_end(
    clock: SimulatedClock, runs: Sequence[_Run], closed: float, patience_seconds: float
) -> None:
    """Run through the window, then on with traffic until requests of the window have ended.

    Requests that have not ended after many expected request times count as not answered.
    """
    clock.run(closed)
    for _ in range(LOOKS):
        if _is_over(clock, runs):
            return
        clock.run(clock.now + patience_seconds / LOOKS_EACH)
