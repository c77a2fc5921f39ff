"""The benchmark of the search is right itself: reference, engines, repeatability."""

import dataclasses
import itertools
import random

from bench.search.curves import FAMILIES, draw_curve
from bench.search.engine import SimulatedEngine
from bench.search.reference import read, reference_batches, run_reference
from partitiond.profiler.search import Purpose, SearchLimits, Visit


def test_the_reference_steps_by_at_most_a_quarter_and_reaches_the_largest() -> None:
    for largest in (1, 2, 5, 64, 100, 512):
        batches = reference_batches(largest)
        assert (batches[0], batches[-1]) == (1, largest)
        for low, high in itertools.pairwise(batches):
            assert high <= 1.25 * low or high == low + 1


def test_a_curve_follows_from_its_seed_and_has_a_knee() -> None:
    for index in range(2 * len(FAMILIES)):
        curve = draw_curve(5, index)
        assert curve == draw_curve(5, index)
        assert all(rate > 0 for rate in curve.rates)
        assert 1 <= curve.true_knee <= curve.usable <= curve.max_batch


def test_the_reference_finds_the_knee_and_ranges_have_edges() -> None:
    curve = dataclasses.replace(draw_curve(5, 1), noise=1e-6, drift_share=0.0, outlier_share=0.0)
    engine = SimulatedEngine(curve, random.Random(1))
    up, down, fresh = run_reference(engine, SearchLimits(max_batch=curve.max_batch))
    found = read([*up, *down, fresh], 0.05)
    knee = curve.true_knee
    assert found.grows or knee <= found.batch <= max(knee + 1, 1.25 * knee)
    rates = {1: 10.0, 2: 90.0, 4: 100.0, 8: 100.0}
    visits = [Visit(b, Purpose.UP, x, 0.1, 10.0, e2el_seconds=0.1) for b, x in rates.items()]
    found = read(visits, 0.05)
    assert (found.low, found.batch, found.high, found.grows) == (4, 4, 4, False)
    assert [b for b in range(1, 9) if found.holds(b)] == [3, 4, 5]
