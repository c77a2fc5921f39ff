"""Percentiles, intervals, windows and goodput follow their definitions."""

import itertools
import math
import operator
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Outcome, Record, Samples, Slo, WindowRule, fixed
from loadgen.loops.window import LOOK_RATIO, WindowState
from loadgen.results import statistics as stats
from tests.loadgen.make import answered

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(values, st.floats(0, 1))
def test_a_percentile_lies_between_the_extremes_and_grows(data: list[float], q: float) -> None:
    ordered = sorted(data)
    assert ordered[0] <= stats.percentile(ordered, q) <= ordered[-1] * (1 + 1e-12)
    assert stats.percentile(ordered, 0.0) == ordered[0]
    assert stats.percentile(ordered, 1.0) == ordered[-1]


def test_percentiles_interpolate_as_numpy_does() -> None:
    assert stats.percentile([1.0, 2.0, 3.0, 4.0], 0.95) == pytest.approx(3.85)
    summary = stats.summarise([4.0, 1.0, 3.0, 2.0])
    assert summary is not None
    assert (summary.mean, summary.p50, summary.count) == (2.5, 2.5, 4)
    assert stats.summarise([]) is None


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=40))
def test_the_half_width_is_students(data: list[float]) -> None:
    expected = stats.t95(len(data) - 1) * statistics.stdev(data) / math.sqrt(len(data))
    assert stats.half_width(data) == pytest.approx(expected, abs=1e-6)
    assert math.isinf(stats.half_width(data[:1])), "one value has no interval"


def stepped(
    step_seconds: float, tokens: int, seconds: float, jitter: float = 0.0
) -> stats.TokenTimeline:
    """An engine that gives every running request one token per step, all at once."""
    generator, timeline, at = random.Random(1), stats.TokenTimeline(), 0.0
    while at < seconds:
        at += step_seconds * (1 + generator.uniform(-jitter, jitter))
        for i in range(tokens):
            timeline.add(at + i * 1e-5, 1)
    return timeline


def test_throughput_does_not_depend_on_where_in_a_step_the_window_begins() -> None:
    timeline = stepped(0.25, 64, 20)
    rates = [stats.throughput(timeline, 1 + i * 0.03, 11 + i * 0.03) for i in range(9)]
    for measured in rates:
        assert measured.output_tokens_per_s == pytest.approx(256, rel=1e-3)
        assert measured.half_width_share < 1e-3


def test_intervals_hold_the_true_rate_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(200):
        generator, timeline, at = random.Random(seed), stats.TokenTimeline(), 0.0
        while at < 60:
            at += generator.expovariate(100)
            timeline.add(at, 1)
        measured = stats.throughput(timeline, 5, 55)
        hits += abs(measured.output_tokens_per_s - 100) <= measured.half_width
    assert 0.88 <= hits / 200 <= 1.0


def test_windows_close_by_their_minima_their_interval_or_their_limit() -> None:
    """A window that never gets narrow closes wide; two latencies go before the limit."""
    unsure = stats.throughput(stats.TokenTimeline(), 0, 10)
    assert (unsure.output_tokens_per_s, math.isinf(unsure.half_width_share)) == (0, True)
    rule = WindowRule(min_seconds=10, min_e2el=2, max_seconds=60, half_width_share=0.05)
    for seconds, e2el, share, state in (
        (9.9, 1.0, 0.0, WindowState.OPEN),
        (10.0, 1.0, 0.05, WindowState.CLOSED),
        (15.0, 8.0, 0.0, WindowState.OPEN),
        (99.0, 50.0, 0.5, WindowState.OPEN),
        (59.9, 1.0, 0.2, WindowState.OPEN),
        (60.0, 1.0, 0.2, WindowState.WIDE),
        (60.0, None, 0.0, WindowState.OPEN),  # no request has ended yet
    ):
        assert rule.state(seconds, e2el, share) is state
    assert fixed(3).state(3.0, 100.0, math.inf) is WindowState.CLOSED


def test_a_good_request_meets_both_bounds() -> None:
    """Refusals and time-outs are missed, cancellations left out."""
    slo = Slo(ttft_seconds=0.2, tpot_seconds=0.05)
    assert stats.is_good(answered(), slo)
    assert not stats.is_good(answered(ttft=0.3), slo)
    assert not stats.is_good(answered(tpot=0.06), slo)
    assert not stats.is_good(answered(outcome=Outcome.ERROR), slo)
    assert stats.is_good(answered(tokens=1, tpot=9.0), slo), "one token has no TPOT"
    outcomes = [Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.TIMEOUT, Outcome.CANCELLED]
    assert stats.attainment([answered(outcome=o) for o in outcomes], Slo(1, 1)) == 0.5
    assert stats.attainment([answered(outcome=Outcome.CANCELLED)], slo) is None


def test_a_value_counts_in_the_window_in_which_it_became_known() -> None:
    made = answered(ttft=0.5, tpot=0.1, tokens=11)
    early = Samples.of_window([made], 0.0, 1.0)
    late = Samples.of_window([made], 1.0, 2.0)
    assert (len(early.ttft), len(early.e2el)) == (1, 0)
    assert (len(late.ttft), len(late.e2el), len(late.tpot)) == (0, 1, 1)
    assert len(early.itl) + len(late.itl) == 10
    pooled = early + late
    assert pooled == Samples.of_requests([made]) or sorted(pooled.itl) == sorted(made.itl)


requests = st.lists(
    st.tuples(
        st.floats(0, 100), st.lists(st.floats(0.001, 3), min_size=1, max_size=20)
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@given(requests)
def test_latencies_stand_in_the_order_they_became_known(
    made: list[tuple[float, list[float]]],
) -> None:
    records, gaps, ends = [], [], []
    for index, (sent, steps) in enumerate(made):
        times = list(itertools.accumulate(steps, initial=sent))[1:]
        record = Record(index, sent=sent, outcome=Outcome.OK, end=times[-1])
        record.chunk_times.extend(times)
        record.output_tokens = len(times)
        records.append(record)
        gaps += [(at, at - before) for before, at in itertools.pairwise(times)]
        ends.append((times[-1], times[-1] - sent))
    samples = Samples.of_requests(records)
    by_time = operator.itemgetter(0)
    assert list(samples.itl) == [gap for _, gap in sorted(gaps, key=by_time)]
    assert list(samples.e2el) == [e2el for _, e2el in sorted(ends, key=by_time)]
    assert sorted(samples.ttft) == sorted(r.ttft for r in records if r.ttft is not None)


@given(st.floats(1, 20), st.floats(0, 40), st.floats(0.1, 30), st.floats(20, 120))
def test_looks_are_few_and_the_last_is_at_the_limit(
    least: float, latencies: float, e2el: float, longest: float
) -> None:
    rule = WindowRule(least, min_e2el=latencies / e2el, max_seconds=longest)
    at, looks = rule.next_look(0.0, e2el), 1
    assert at == rule.least_seconds(e2el)
    while rule.state(at, e2el, math.inf) is WindowState.OPEN:
        before, at = at, rule.next_look(at, e2el)
        assert before < at <= max(longest, LOOK_RATIO * before)
        looks += 1
    assert rule.state(at, e2el, math.inf) is WindowState.WIDE
    assert at == max(longest, rule.least_seconds(e2el))
    assert looks <= 2 + math.log(120 / 1, LOOK_RATIO)
