"""The fleet's engines take the same times as engines that step one by one."""

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Cost
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.simulated.engine.batch import Sequence
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from tests.simulated.plain_engine import PlainEngine
from tests.simulated.samples import Noted, candidate


class LinearSteps:
    """All that a step does makes it longer."""

    def step_seconds(self, decoding: int, prefill_tokens: int, kv_tokens: int = 0) -> float:
        return 0.01 + 1e-3 * decoding + 1e-4 * prefill_tokens + 1e-5 * kv_tokens


STEPS = LinearSteps()
STEP_TOKENS = 48
Times = list[tuple[float, float]]
"""First and last token of each request."""
Arrivals = list[tuple[float, int, int, int]]
"""When, at which engine, prompt and output tokens."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Two engines as (device, slots, KV tokens)."""

    engines: tuple[tuple[int, int, int], ...]
    busy: float


class Bench:
    """The engines' devices and figures."""

    def __init__(self, shape: Shape) -> None:
        self.clock = SimulatedClock()
        interference = Interference(kappa_memory=0.1)
        devices = [FleetDevice(self.clock, SharingMode.MEMORY, interference) for _ in range(2)]
        self.made = [
            (
                devices[where],
                dataclasses.replace(
                    candidate("m", mode=SharingMode.MEMORY, busy=shape.busy), batch=slots
                ),
                EngineModel(STEPS, tokens, 200, STEP_TOKENS),
            )
            for where, slots, tokens in shape.engines
        ]


def one_by_one(shape: Shape, arrivals: Arrivals) -> Times:
    bench = Bench(shape)
    first: dict[Sequence, float] = {}
    last: dict[Sequence, float] = {}

    def token(sequence: Sequence) -> None:
        first.setdefault(sequence, bench.clock.now)
        last[sequence] = bench.clock.now

    engines = [PlainEngine(bench.clock, *made, token) for made in bench.made]
    sequences = [Sequence(prompt, output) for *_, prompt, output in arrivals]
    for (when, which, *_), sequence in zip(arrivals, sequences, strict=True):
        bench.clock.at(when, functools.partial(engines[which].add, sequence))
    bench.clock.run(10_000.0)
    return [(first[sequence], last[sequence]) for sequence in sequences]


def in_leaps(shape: Shape, arrivals: Arrivals) -> Times:
    bench = Bench(shape)
    notes = Noted(bench.clock)
    engines = [FleetEngine(bench.clock, *made, notes) for made in bench.made]
    requests = [
        FleetRequest(when, prompt, output, Cost(1, 0)) for when, _, prompt, output in arrivals
    ]
    for (when, which, *_), request in zip(arrivals, requests, strict=True):
        bench.clock.at(when, functools.partial(engines[which].add, request))
    bench.clock.run(10_000.0)
    assert all(device.working == 0 for device, *_ in bench.made)
    return [(notes.first[request], notes.last[request]) for request in requests]


SHAPES = st.builds(
    Shape,
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 6), st.integers(150, 400)),
        min_size=2,
        max_size=2,
    ).map(tuple),
    st.floats(0.0, 1.0),
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 3.0), st.integers(0, 1), st.integers(1, 90), st.integers(1, 60)),
        max_size=30,
    ),
    SHAPES,
)
def test_every_request_has_the_same_times(arrivals: Arrivals, shape: Shape) -> None:
    found, expected = in_leaps(shape, arrivals), one_by_one(shape, arrivals)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
