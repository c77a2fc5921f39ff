"""Generates requests to a fleet: recorded traces, or synthetic arrivals of four kinds.

Times and lengths use the load generator's own functions: equal for equal seeds.
"""

import bisect
import dataclasses
import enum
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from loadgen.load.arrivals import gamma, poisson
from loadgen.load.lengths import Lengths, choice, fixed, independent, uniform
from loadgen.load.traces import Trace
from partitiond.core.errors import InputError
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.simulated.fleet.dispatch import FleetModel
from partitiond.simulated.fleet.events import EventTarget, SimulatedClock

Arrival = tuple[float, int, int]
"""Time in seconds, prompt tokens, output tokens."""

BURST_SHAPE: Final = 0.5
"""Shape of the gaps' gamma distribution: their deviation is 1.4 times their mean. Chosen."""
BURST_SECONDS: Final = 10.0
BURST_SIGMA: Final = 0.4
"""Every `BURST_SECONDS` the rate gets a new lognormal factor of this sigma, mean 1. Chosen."""
DIURNAL_SWING: Final = 0.6
"""The rate moves from 1 - this to 1 + this times its mean, and back. Chosen, not measured."""
SEEDS_APART: Final = 1_000_003


class ArrivalKind(enum.StrEnum):
    """Kinds of synthetic arrivals."""

    POISSON = "poisson"
    GAMMA = "gamma"
    """Gaps like BurstGPT's, at a constant rate: gamma of shape `BURST_SHAPE`."""
    BURST = "burst"
    """Gaps like BurstGPT's, at a rate that changes every ten seconds."""
    DIURNAL = "diurnal"
    """Poisson, at a rate that rises and falls like that of a day."""


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticArrivals:
    """Synthetic arrivals for every model at its demand.

    Attributes:
        factor: multiplies the demand.
        period_seconds: period of diurnal arrivals.
    """

    kind: ArrivalKind = ArrivalKind.POISSON
    factor: float = 1.0
    period_seconds: float = 86_400.0


def offsets(made: SyntheticArrivals, req_per_s: float, seed: int) -> Iterator[float]:
    """Return an endless iterator of arrival times of one model."""
    match made.kind:
        case ArrivalKind.POISSON:
            return poisson(req_per_s, seed)
        case ArrivalKind.GAMMA:
            return gamma(req_per_s, BURST_SHAPE, seed)
        case ArrivalKind.BURST:
            return _bursts(req_per_s, seed)
        case ArrivalKind.DIURNAL:
            return _diurnal(req_per_s, made.period_seconds, seed)


def _bursts(req_per_s: float, seed: int) -> Iterator[float]:
    dice = random.Random(seed)  # noqa: S311 -- not for secrets
    now, until, rate = 0.0, 0.0, req_per_s
    while True:
        if now >= until:
            until += BURST_SECONDS * max(1, math.ceil((now - until) / BURST_SECONDS))
            rate = req_per_s * dice.lognormvariate(-(BURST_SIGMA**2) / 2, BURST_SIGMA)
        now += dice.gammavariate(BURST_SHAPE, 1 / BURST_SHAPE) / rate
        yield now


def _diurnal(req_per_s: float, period_seconds: float, seed: int) -> Iterator[float]:
    """Yield times, thinned from the highest rate (Lewis and Shedler, 1979); least at the start."""
    dice = random.Random(seed)  # noqa: S311 -- not for secrets
    most = 1 + DIURNAL_SWING
    for now in poisson(req_per_s * most, seed + 1):
        rate = 1 - DIURNAL_SWING * math.cos(2 * math.pi * now / period_seconds)
        if dice.random() * most < rate:
            yield now


def lengths_of(workload: Workload) -> Lengths:
    """Return the same lengths that predictions of memory and time use."""
    match workload.shape:
        case LengthShape.TRACE:
            return choice(workload.pairs)
        case LengthShape.LOGNORMAL:
            return independent(workload.prompt_lengths, workload.output_lengths)
        case _:
            return fixed(workload.prompt_tokens, workload.output_tokens)


def requests(times: Iterator[float], workload: Workload, seed: int) -> Iterator[Arrival]:
    """Return requests with the workload's lengths at these times."""
    lengths: Lengths = lengths_of(workload)
    if len(lengths.prompts) == len(lengths.outputs) == 1:
        prompt, output = lengths.prompts[0], lengths.outputs[0]
        return ((when, prompt, output) for when in times)
    pair = lengths.pair
    return ((when, *pair(index, seed)) for index, when in enumerate(times))


def made_up(
    made: SyntheticArrivals, demands: Mapping[str, tuple[float, Workload]], seed: int
) -> dict[str, Iterator[Arrival]]:
    """Return the arrivals of every model with a rate above 0.

    Args:
        made: kind of arrivals.
        demands: requests/s and lengths by model.
        seed: seed of times and lengths.
    """
    found = {}
    for number, (model, (rate, workload)) in enumerate(demands.items()):
        if rate * made.factor > 0:
            own = seed * SEEDS_APART + 2 * number
            times = offsets(made, rate * made.factor, own)
            found[model] = requests(times, workload, own + 1)
    return found


def replay_trace(
    trace: Trace, shares: Mapping[str, float], *, speed: float = 1.0, seed: int = 0
) -> dict[str, Iterator[Arrival]]:
    """Distribute a trace over models: each request goes to one model, drawn by the shares.

    Args:
        trace: recorded requests, each with lengths of its own.
        shares: shares by model; only their ratios count.
        speed: factor by which the replay is faster than the recording.
        seed: seed of the choice of the model for each request.

    Raises:
        InputError: the speed is not above 0, or no model has a share.
    """
    if not 0 < speed < math.inf:
        raise InputError(f"A speed of {speed!r} plays nothing.", hint="Give one above 0.")
    names = [name for name, share in shares.items() if share > 0]
    if not names:
        raise InputError(
            "No model has a rate, so that a trace cannot be dealt out.",
            hint="Give the models a demand of so many requests/s.",
        )
    bounds = list(itertools.accumulate(shares[name] for name in names))
    dealt: dict[str, list[Arrival]] = {name: [] for name in names}
    start = trace.rows[0].at
    for index, row in enumerate(trace.rows):
        at = bisect.bisect_right(bounds, uniform(index, seed) * bounds[-1])
        arrival = (row.at - start) / speed, row.prompt_tokens, row.output_tokens
        dealt[names[min(at, len(names) - 1)]].append(arrival)
    return {name: iter(rows) for name, rows in dealt.items() if rows}


class Stream(EventTarget):
    """The arrivals of one model on the clock, one after the other.

    Attributes:
        over: whether there are no more arrivals.
    """

    def __init__(
        self, clock: SimulatedClock, model: FleetModel, arrivals: Iterator[Arrival], until: float
    ) -> None:
        self.over = False
        self._clock = clock
        self._model = model
        self._arrivals = arrivals
        self._until = until
        self._next: Arrival = (0.0, 0, 0)
        self._plan()

    def _plan(self) -> None:
        following = next(self._arrivals, None)
        if following is None or following[0] >= self._until:
            self.over = True
            return
        self._next = following
        self._clock.plan(following[0], self)

    def due(self, number: int) -> None:
        """Send the next request to the model."""
        del number
        _, prompt_tokens, output_tokens = self._next
        self._plan()
        self._model.arrive(prompt_tokens, output_tokens)


def all_over(streams: Sequence[Stream]) -> bool:
    """Return whether nothing more will arrive."""
    return all(stream.over for stream in streams)
