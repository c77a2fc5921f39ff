"""Builds runs of two models on one host by the simulation, with known parameters."""

import functools
import random
from collections.abc import Iterator

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.core.profile.confirmed import StepTime
from partitiond.simulated.replay.batch import Batch, BatchStep, Sequence
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.fitting import EngineTrace, HostTrace
from partitiond.simulated.replay.host import Host, HostCosts
from partitiond.simulated.replay.seen import Observed
from partitiond.simulated.replay.steps import FittedSteps
from tests.simulated.replay.samples import candidate

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


class Recording(Batch):
    """Takes every step by itself, and notes when each token came."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__(SLOTS, 4096, 1_000_000)
        self._clock = clock
        self.times: dict[Sequence, list[float]] = {}

    def steps_alike(self, step: BatchStep) -> int:
        return 1

    def finish_step(self, step: BatchStep, times: int = 1) -> tuple[Sequence, ...]:
        emitted = super().finish_step(step, times)
        for sequence in emitted:
            self.times.setdefault(sequence, []).append(self._clock.now)
        return emitted


def arrivals(
    model: str, rate: float, seconds: float, seed: int
) -> Iterator[tuple[float, Sequence]]:
    dice, now = random.Random(f"{seed} {model}"), 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        yield now, Sequence(dice.randint(*PROMPTS[model]), dice.randint(2, 40))


def made_run(rate: float, seed: int, seconds: float = 300.0, noise: float = 0.0) -> HostTrace:
    """Both models on a host of two cores, an engine of one core each."""
    clock = SimulatedClock()
    device = SharedDevice(SharingMode.CORES, Interference(kappa_cores=KAPPA), Host(2))
    dice = random.Random(seed)
    traces = []
    runs = []
    for model, (steps, costs) in TRUE.items():
        batch = Recording(clock)
        one = candidate(model, mode=SharingMode.CORES, busy=0.0)
        engine = SteppedEngine(
            clock, device, one, batch, FittedSteps(steps, float("inf")), costs=costs
        )
        sent = list(arrivals(model, rate, seconds, seed))
        for when, sequence in sent:
            clock.at(when, functools.partial(engine.add, sequence))
        runs.append((model, batch, sent))
    clock.run(1e6)
    for model, batch, sent in runs:
        shaken = tuple(
            Observed(
                when,
                sequence.prompt_tokens,
                tuple(at + noise * dice.random() for at in batch.times[sequence]),
            )
            for when, sequence in sent
        )
        traces.append(EngineTrace(model, 1, SLOTS, shaken))
    requests = [request for trace in traces for request in trace.requests]
    tokens = sum(len(request.token_times) for request in requests)
    cpu = IDLE_SHARE * seconds + 3e-3 * len(requests) + 4e-4 * tokens
    return HostTrace(tuple(traces), 2, seconds, cpu)
