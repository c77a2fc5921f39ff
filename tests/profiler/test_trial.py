"""What a trial makes of the engine's own gauges."""

import pytest

from partitiond.profiler.bench import RUNNING
from partitiond.profiler.sampling import KV_USAGE, PREEMPTIONS, WAITING, summarise_engine


def test_running_is_averaged_and_preemptions_are_counted_from_the_first_scrape() -> None:
    scrapes = [{RUNNING: 7.0, PREEMPTIONS[0]: 3.0}, {RUNNING: 8.0, PREEMPTIONS[0]: 5.0}]
    seen = summarise_engine(scrapes)
    assert (seen.running_mean, seen.preemptions, seen.starved) == (7.5, 2, False)
    at_end = {RUNNING: 0.0, PREEMPTIONS[0]: 6.0}
    assert summarise_engine(scrapes, at_end).preemptions == 3
    assert summarise_engine(scrapes, at_end).running_mean == 7.5


@pytest.mark.parametrize(
    ("usage", "waiting", "starved"), [(1.0, 3.0, True), (1.0, 0.0, False), (0.9, 3.0, False)]
)
def test_waiting_for_blocks_is_told_from_waiting_for_a_step(
    usage: float, waiting: float, starved: bool
) -> None:
    assert summarise_engine([{KV_USAGE: usage, WAITING: waiting}] * 3).starved is starved


def test_no_scrape_is_no_sample() -> None:
    assert summarise_engine([]).running_mean == 0.0
