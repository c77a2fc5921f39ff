"""Counters of two looks give growth over restarts and gaps, and for a real engine."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise.exposition import Scrape
from partitiond.advise.observe import increase, keep, merged, observe
from tests.advise.looks import captured, histogram, scrape


def test_a_real_engine_over_a_minute() -> None:
    (window,) = observe({"a": captured()})

    assert window.looks == 3
    assert window.seconds == pytest.approx(60)
    assert window.restarts == 0
    # 72 were sent in this minute; two ended after the last look or came right after it.
    assert 69 <= math.fsum(s.arrivals for s in window.stretches) <= 72
    assert window.ended == 70
    assert window.histograms["output"].count == window.ended
    assert window.histograms["prompt"].total == 3092
    assert window.peak_kv_usage is not None
    assert 0 < window.peak_kv_usage < 0.1


def test_what_waits_has_come_and_what_was_refused_too() -> None:
    looks = [scrape(0, ended=5, running=1), scrape(10, ended=6, running=2, waiting=3, refused=4)]
    (window,) = observe({"a": looks})
    assert [s.arrivals for s in window.stretches] == [1 + 4 + 4]


def test_a_restart_begins_at_zero() -> None:
    looks = [scrape(0, ended=100, running=3), scrape(5, ended=2, running=1), scrape(10, ended=6)]
    (window,) = observe({"a": looks})
    assert window.restarts == 1
    assert [s.arrivals for s in window.stretches] == [3, 3]
    assert window.ended == 2 + 4


def test_a_lost_look_makes_the_stretch_longer() -> None:
    (window,) = observe({"a": [scrape(0, ended=0), scrape(30, ended=60), scrape(35, ended=70)]})
    assert [(s.begin, s.end, s.arrivals) for s in window.stretches] == [(0, 30, 60), (30, 35, 10)]


def test_one_look_is_no_observation() -> None:
    assert observe({"a": [scrape(0, ended=3)], "b": []}) == ()


def test_an_engine_that_came_later_counts_from_then() -> None:
    (window,) = observe({"a": [scrape(0, model="x"), scrape(5, ended=1), scrape(10, ended=4)]})
    assert (window.key.model, window.begin, window.ended) == ("m", 5, 3)


@given(st.lists(st.integers(0, 50), min_size=1), st.sets(st.integers(0, 40)))
def test_increases_add_up_to_what_happened(steps: list[int], restarts: set[int]) -> None:
    """A process that ends loses nothing that was looked at."""
    shown, value = [0], 0
    for number, step in enumerate(steps):
        # A counter that began anew and overtook its old value cannot be told from one that grew.
        began_anew = number in restarts and step < value
        value = step if began_anew else value + step
        shown.append(value)
    pairs = itertools.pairwise(shown)
    assert sum(increase(a, b) for a, b in pairs) == sum(steps)


def test_what_is_forgotten_of_looks_in_between_changes_nothing() -> None:
    one, two, three = captured()
    again = [dataclasses.replace(s, at_seconds=s.at_seconds + 90) for s in (one, two, three)]
    # The engine began anew after the third look.
    looks = [one, two, three, *again]
    kept: list[Scrape] = []
    for look in looks:
        keep(kept, look)

    (whole,), (thin,) = observe({"a": looks}), observe({"a": kept})
    assert thin == whole
    assert whole.restarts == 1
    sizes = [len(look.samples) for look in kept]
    assert max(sizes[1], sizes[4]) < 0.5 * min(sizes[0], sizes[2], sizes[3], sizes[5])


def test_histograms_of_different_ends_are_put_together() -> None:
    short = histogram([3, 30], [5, 50])
    longer = histogram([4, 400], [5, 50, 500])
    both = merged([short, longer])
    assert both.count == 4
    assert both.total == 437
    assert dict(zip(both.bounds, both.counts, strict=True)) == {5: 2, 50: 3, 500: 4, math.inf: 4}
