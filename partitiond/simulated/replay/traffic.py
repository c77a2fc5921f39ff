"""Generates requests: Poisson arrivals, or a constant number of requests in flight.

Arrivals and lengths use the load generator's own functions: with the same seed, a simulation and a
measurement get the same requests at the same times.
"""

import itertools
import math
from collections.abc import Callable

from loadgen.load.arrivals import poisson
from loadgen.load.lengths import Lengths, choice, fixed, independent
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.simulated.replay.dispatch import SimulatedModel, SimulatedRequest
from partitiond.simulated.replay.events import SimulatedClock

Sent = Callable[[SimulatedRequest], None]
"""Called with every request at its arrival."""


def lengths_of(workload: Workload) -> Lengths:
    """Return the same lengths that predictions of memory and time use."""
    match workload.shape:
        case LengthShape.TRACE:
            return choice(workload.pairs)
        case LengthShape.LOGNORMAL:
            return independent(workload.prompt_lengths, workload.output_lengths)
        case _:
            return fixed(workload.prompt_tokens, workload.output_tokens)


def open_traffic(
    clock: SimulatedClock,
    model: SimulatedModel,
    workload: Workload,
    req_per_s: float,
    *,
    seed: int,
    until: Callable[[], bool],
    sent: Sent,
) -> None:
    """Schedule Poisson arrivals, one after the other, until `until` returns True.

    Args:
        clock: clock of the simulation.
        model: model that gets the requests.
        workload: lengths of the requests.
        req_per_s: rate, above 0.
        seed: seed of arrivals and lengths.
        until: called before each arrival; True ends the traffic.
        sent: called with each request.
    """
    lengths = lengths_of(workload)
    due = enumerate(poisson(req_per_s, seed))

    def arrive(index: int) -> None:
        if until():
            return
        flight = SimulatedRequest(clock.now, *lengths.pair(index, seed))
        sent(flight)
        following, when = next(due)
        clock.at(when, lambda: arrive(following))
        model.arrive(flight)

    first, when = next(due)
    clock.at(when, lambda: arrive(first))


def closed_traffic(
    clock: SimulatedClock,
    model: SimulatedModel,
    workload: Workload,
    slots: int,
    *,
    seed: int,
    sent: Sent,
) -> Callable[[SimulatedRequest], None]:
    """Hold `slots` requests in flight; return a function to call with each ended request.

    The slots are de-synchronised as the definitions say: slot i's first request asks for ceil(O (i
    + 1) / slots) output tokens, so that slots do not finish in waves.
    """
    lengths = lengths_of(workload)
    numbers = itertools.count()

    def send(share: float = 1.0) -> None:
        prompt, output = lengths.pair(next(numbers), seed)
        flight = SimulatedRequest(clock.now, prompt, max(1, math.ceil(output * share)))
        sent(flight)
        model.arrive(flight)

    def again(flight: SimulatedRequest) -> None:
        # After a refusal the slot pauses before its next request; else time would stand still.
        pause = 0.0 if flight.rejected is None else 0.1
        clock.at(clock.now + pause, send)

    for slot in range(slots):
        share = (slot + 1) / slots
        clock.at(0.0, lambda share=share: send(share))  # type: ignore[misc]
    return again
