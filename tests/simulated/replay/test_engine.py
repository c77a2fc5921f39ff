"""Engines of one device step through their batches and slow each other down."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.core.profile.confirmed import StepTime
from partitiond.simulated.replay.batch import Batch, BatchStep, Sequence
from partitiond.simulated.replay.engine import SharedDevice
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.host import NO_COSTS, Host, HostCosts
from partitiond.simulated.replay.steps import FittedSteps, StepModel
from tests.simulated.replay.samples import STEP_SECONDS, ConstantSteps, host_costs, stepped


class StepByStep(Batch):
    """Never leaps: what a leap has to equal."""

    def steps_alike(self, step: BatchStep) -> int:
        return 1


Times = list[tuple[float, float]]
Arrivals = list[tuple[float, int, int, int]]


def run(arrivals: Arrivals, kind: type[Batch], busy: float, costs: HostCosts, cores: int) -> Times:
    """(first token, last token) of each request on two engines that share a device and a host."""
    clock = SimulatedClock()
    device = SharedDevice(SharingMode.MEMORY, Interference(kappa_memory=0.1), Host(cores))
    steps = FittedSteps(StepTime(0.01, 1e-4, 1e-3, 1e-5, 0.0, 3, 3), 20)
    first: dict[Sequence, float] = {}
    last: dict[Sequence, float] = {}
    engines = []
    for _ in range(2):
        engine = stepped(
            clock, steps, (4, 32, 200), device=device, costs=costs, kind=kind, busy=busy
        )
        engine.on_first = lambda s: first.__setitem__(s, clock.now)
        engine.on_ended = lambda s: last.__setitem__(s, clock.now)
        engines.append(engine)
    sequences = [Sequence(prompt, output) for *_, prompt, output in arrivals]
    for (when, which, *_), sequence in zip(arrivals, sequences, strict=True):
        clock.at(when, functools.partial(engines[which].add, sequence))
    clock.run(1000.0)
    return [(first[s], last[s]) for s in sequences]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 2.0), st.integers(0, 1), st.integers(1, 60), st.integers(1, 40)),
        max_size=15,
    ),
    st.floats(0.0, 1.0),
    st.just(NO_COSTS) | host_costs(),
    st.integers(0, 3),
)
def test_leaps_change_nothing(
    arrivals: Arrivals, busy: float, costs: HostCosts, cores: int
) -> None:
    leaping, single = (run(arrivals, kind, busy, costs, cores) for kind in (Batch, StepByStep))
    for one, other in zip(leaping, single, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_two_busy_engines_halve_each_other_and_one_alone_is_not_slowed() -> None:
    clock = SimulatedClock()
    device = SharedDevice(SharingMode.MEMORY, Interference(kappa_memory=0.0))
    ended: dict[int, float] = {}
    for output in (10, 30):
        engine = stepped(clock, ConstantSteps(), device=device)
        engine.on_ended = lambda s: ended.__setitem__(s.output_tokens, clock.now)
        engine.add(Sequence(1, output))
    clock.run(10.0)
    # The first one began alone: its first step is not slowed.
    assert ended[10] == pytest.approx(STEP_SECONDS * (1 + 9 * 2), rel=0.01)
    # 10 of the long one's steps beside the short one, 20 alone.
    assert ended[30] == pytest.approx(STEP_SECONDS * (10 * 2 + 20), rel=0.06)


def test_every_token_is_counted_once() -> None:
    clock = SimulatedClock()
    engine = stepped(clock, StepModel(((1, 0.01), (8, 0.02)), 1e-4))
    counted: list[int] = []
    engine.on_tokens = lambda _b, _e, count: counted.append(count)
    for when, output in ((0.0, 40), (0.1, 25), (0.123, 7)):
        clock.at(when, functools.partial(engine.add, Sequence(20, output)))
    clock.run(100.0)
    assert sum(counted) == 72
