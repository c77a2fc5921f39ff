"""Builds runs of two models on one host by the simulation, with known parameters."""

import collections
import functools
import random
from collections.abc import Iterator

from bench.simulator.fitting import EngineTrace, HostTrace
from bench.simulator.seen import Observed
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.core.profile.confirmed import StepTime
from partitiond.simulated.engine.batch import Sequence
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.host_costs import Host, HostCosts
from partitiond.simulated.steps import FittedSteps
from tests.simulated.plain_engine import PlainEngine
from tests.simulated.samples import candidate

SLOTS = 8
KAPPA = 0.3
IDLE_SHARE = 0.02
TRUE = {
    "long": (
        StepTime(0.02, 4e-4, 3e-3, 4e-6, 0.0, 3, 3),
        HostCosts(0.012, 0.006, 0.006, 3e-3, 4e-4),
    ),
    "short": (StepTime(0.03, 6e-4, 2e-3, 0.0, 0.0, 3, 3), HostCosts(0.02, 0.02, 0.0, 3e-3, 4e-4)),
}
PROMPTS = {"long": (60, 400), "short": (8, 90)}


def arrivals(
    model: str, rate: float, seconds: float, seed: int
) -> Iterator[tuple[float, Sequence]]:
    dice, now = random.Random(f"{seed} {model}"), 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        yield now, Sequence(dice.randint(*PROMPTS[model]), dice.randint(2, 40))


def made_run(rate: float, seed: int, seconds: float = 300.0, noise: float = 0.0) -> HostTrace:
    """Both models on a host of two cores, an engine of one core each."""
    clock = SimulatedClock()
    device = FleetDevice(clock, SharingMode.CORES, Interference(kappa_cores=KAPPA), Host(2))
    dice = random.Random(seed)
    times: dict[Sequence, list[float]] = collections.defaultdict(list)
    runs = []
    for model, (steps, costs) in TRUE.items():
        behaves = EngineModel(FittedSteps(steps, float("inf")), 1_000_000, 1000, 4096, costs)
        one = candidate(model, mode=SharingMode.CORES, busy=0.0)
        engine = PlainEngine(clock, device, one, behaves, lambda s: times[s].append(clock.now))
        sent = list(arrivals(model, rate, seconds, seed))
        for when, sequence in sent:
            clock.at(when, functools.partial(engine.add, sequence))
        runs.append((model, sent))
    clock.run(1e6)
    traces = []
    for model, sent in runs:
        shaken = tuple(
            Observed(
                when,
                sequence.prompt_tokens,
                tuple(at + noise * dice.random() for at in times[sequence]),
            )
            for when, sequence in sent
        )
        traces.append(EngineTrace(model, 1, SLOTS, shaken))
    requests = [request for trace in traces for request in trace.requests]
    tokens = sum(len(request.token_times) for request in requests)
    cpu = IDLE_SHARE * seconds + 3e-3 * len(requests) + 4e-4 * tokens
    return HostTrace(tuple(traces), 2, seconds, cpu)
