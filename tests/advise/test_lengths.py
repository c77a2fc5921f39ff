"""Lengths derived from buckets have exact means, the original variation, and quantiles."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.advise.lengths import LengthFigures, figures_of, quantile, workload_of
from partitiond.advise.metrics import ScrapedHistogram
from partitiond.core.model.workload import LengthShape
from tests.advise.looks import histogram

BOUNDS = [m * 10**e for e in range(5) for m in (1, 2, 5)]
"""vLLM's buckets for lengths."""


def lognormal(mean: float, variation: float, count: int, seed: int = 0) -> list[float]:
    sigma = math.sqrt(math.log1p(variation**2))
    rng = random.Random(seed)
    return [
        max(1, round(rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("variation", [0.3, 0.8, 1.5])
@pytest.mark.parametrize("mean", [40, 700])
def test_the_variation_comes_back_from_the_buckets(mean: int, variation: float) -> None:
    values = lognormal(mean, variation, 4000)
    found = figures(values)
    assert found.mean == math.fsum(values) / len(values)
    assert found.variation == pytest.approx(variation, rel=0.15)


def figures(values: Sequence[float], bounds: Sequence[float] = BOUNDS) -> LengthFigures:
    found = figures_of(histogram(values, bounds))
    assert found is not None
    return found


def test_equal_lengths_are_fixed_and_the_longest_is_a_bound() -> None:
    found = figures([256.0] * 50)
    assert found.variation == 0
    workload = workload_of(found, found)
    assert (workload.shape, workload.prompt_tokens) == (LengthShape.FIXED, 256)
    assert figures([30, 60, 90]).longest == 100
    assert figures([30, 60, 700], [50, 100]).longest is None


def test_nothing_that_ended_has_no_length() -> None:
    assert figures_of(ScrapedHistogram()) is None
    assert quantile(ScrapedHistogram((math.inf,), (5.0,), 3.0), 0.95) is None, "no buckets"


@given(st.lists(st.floats(0.5, 9e4), min_size=1, max_size=60), st.floats(0.01, 1))
@settings(max_examples=200)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = quantile(histogram(values, BOUNDS), share)
    true = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    ends = [0.0, *BOUNDS]
    bucket = next((e for e in zip(ends, BOUNDS, strict=False) if e[0] < true <= e[1]), None)
    if bucket is None:
        assert found == BOUNDS[-1]
    else:
        assert bucket[0] <= found <= bucket[1]
