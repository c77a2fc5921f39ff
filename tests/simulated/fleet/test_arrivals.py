import itertools
import statistics

import pytest

from loadgen.load.traces import Trace, TraceRow
from partitiond.core.errors import InputError
from partitiond.simulated.fleet.arrivals import (
    ArrivalKind,
    SyntheticArrivals,
    offsets,
    replay_trace,
)


@pytest.mark.parametrize("kind", ArrivalKind)
def test_every_kind_has_the_rate_that_was_asked_for(kind: ArrivalKind) -> None:
    times = offsets(SyntheticArrivals(kind, period_seconds=2000.0), 5.0, seed=1)
    count = sum(1 for _ in itertools.takewhile(lambda when: when < 20_000.0, times))
    assert count / 20_000 == pytest.approx(5.0, rel=0.05)


def test_a_day_has_its_least_at_its_begin_and_its_most_in_the_middle() -> None:
    times = list(
        itertools.takewhile(
            lambda when: when < 1000.0,
            offsets(SyntheticArrivals(ArrivalKind.DIURNAL, period_seconds=1000.0), 20.0, 3),
        )
    )
    night = sum(when < 100 or when > 900 for when in times)
    noon = sum(400 < when < 600 for when in times)
    assert noon > 2.5 * night


def test_bursts_scatter_more_than_a_poisson_process() -> None:
    def variation(kind: ArrivalKind) -> float:
        times = list(itertools.islice(offsets(SyntheticArrivals(kind), 10.0, seed=2), 5000))
        gaps = [later - one for one, later in itertools.pairwise(times)]
        return statistics.stdev(gaps) / statistics.mean(gaps)

    assert variation(ArrivalKind.POISSON) == pytest.approx(1.0, abs=0.1)
    assert variation(ArrivalKind.BURST) > 1.25


def test_a_trace_is_dealt_out_by_shares_and_keeps_its_times_and_lengths() -> None:
    rows = tuple(TraceRow(100.0 + n, 10 + n, 5) for n in range(4000))
    dealt = {
        name: list(found)
        for name, found in replay_trace(Trace("t", rows), {"m": 3.0, "n": 1.0}, speed=2.0).items()
    }
    assert len(dealt["m"]) == pytest.approx(3000, rel=0.05)
    together = sorted(dealt["m"] + dealt["n"])
    assert together == [(n / 2, 10 + n, 5) for n in range(4000)]


def test_a_trace_needs_a_speed_and_somebody_to_get_it() -> None:
    trace = Trace("t", (TraceRow(0.0, 1, 1),))
    with pytest.raises(InputError, match="speed"):
        replay_trace(trace, {"m": 1.0}, speed=0.0)
    with pytest.raises(InputError, match="No model has a rate"):
        replay_trace(trace, {"m": 0.0})
