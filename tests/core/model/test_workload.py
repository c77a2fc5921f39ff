"""Predictions for a workload follow from exactly the lengths that are sent."""

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.load.lengths import lognormal_list
from partitiond.core.errors import SpecError
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.core.numbers.lengths import QUANTILES, lognormal_lengths
from partitiond.core.performance.footprint import KV_QUANTILE_Z, kv_tokens

LENGTH = st.integers(1, 400)


def slots(workload: Workload) -> list[int]:
    """KV tokens of a busy slot at every output token of every request: the brute-force oracle."""
    pairs = workload.pairs or itertools.product(workload.prompt_lengths, workload.output_lengths)
    return [p + i for p, o in pairs for i in range(1, o + 1)]


def test_the_fixed_workload_of_the_definitions() -> None:
    moments = Workload(512, 256).moments
    assert moments.occupancy_mean == 640
    assert math.sqrt(moments.occupancy_variance) == pytest.approx(73.9, abs=0.05)


@given(st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=6))
def test_occupancy_is_that_of_busy_slots_seen_at_random(pairs: list[tuple[int, int]]) -> None:
    workload = Workload.of_trace(pairs)
    held = slots(workload)
    moments = workload.moments
    # The definitions integrate over time, the oracle counts whole tokens: half a token apart.
    assert moments.occupancy_mean == pytest.approx(statistics.fmean(held) - 0.5, rel=1e-9)
    assert moments.occupancy_variance == pytest.approx(statistics.pvariance(held), abs=0.3)


@given(LENGTH, LENGTH, st.floats(0.1, 1.5), st.floats(0.1, 1.5))
def test_independent_lengths_have_the_moments_of_all_their_pairs(
    prompt: int, output: int, prompt_variation: float, output_variation: float
) -> None:
    workload = Workload.lognormal(prompt, output, prompt_variation, output_variation)
    sampled = workload.moments
    pairs = tuple(itertools.product(workload.prompt_lengths, workload.output_lengths))
    count = len(pairs)
    assert sampled.po == pytest.approx(sum(p * o for p, o in pairs) / count)
    assert sampled.ppo == pytest.approx(sum(p * p * o for p, o in pairs) / count)
    assert sampled.ooo == pytest.approx(sum(o**3 for _, o in pairs) / count)


@given(st.integers(1, 5000), st.floats(0.05, 50))
def test_a_lognormal_list_has_the_mean_and_the_variation_asked_for(
    mean: int, variation: float
) -> None:
    """More variation than a list can have gives nearly the most it can."""
    lengths = lognormal_lengths(mean, variation)
    assert len(lengths) == QUANTILES
    assert list(lengths) == sorted(lengths)
    assert min(lengths) >= 1
    assert statistics.fmean(lengths) == pytest.approx(mean, rel=0.01, abs=0.1)
    if mean >= 20 and 0.1 <= variation <= 1.5:
        # Whole tokens cannot be finer than themselves: a third of a token is their own spread.
        spread = statistics.pstdev(lengths) / mean
        assert spread == pytest.approx(variation, rel=0.03, abs=0.3 / mean)


def test_more_variation_than_a_list_can_have_gives_the_most_it_can() -> None:
    most = math.sqrt(QUANTILES - 1)
    lengths = lognormal_lengths(5000, 50.0)
    assert 0.99 * most < statistics.pstdev(lengths) / statistics.fmean(lengths) <= most


@given(st.integers(1, 3000), st.floats(0, 10), st.sampled_from([16, QUANTILES, 1000]))
def test_the_load_generator_makes_the_same_lists(mean: int, variation: float, count: int) -> None:
    assert lognormal_list(mean, variation, count=count) == lognormal_lengths(mean, variation, count)


@given(
    st.integers(1, 64),
    st.one_of(
        st.builds(Workload, LENGTH, LENGTH),
        st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=5).map(Workload.of_trace),
    ),
    st.sampled_from([16, 128]),
)
def test_kv_tokens_cover_whole_blocks_of_busy_slots(
    batch: int, workload: Workload, block: int
) -> None:
    held = [-(-tokens // block) * block for tokens in slots(workload)]
    longest = -(-workload.longest_tokens // block) * block
    needed = statistics.fmean(held) * batch
    needed += KV_QUANTILE_Z * statistics.pstdev(held) * math.sqrt(batch)
    given_tokens = kv_tokens(batch, workload, workload.longest_tokens, block)
    assert given_tokens >= min(needed, batch * longest) - 1e-6
    assert given_tokens <= max(batch * longest, longest + block)  # one block is kept back


def test_the_context_holds_the_longest_request() -> None:
    workload = Workload.of_trace([(10, 20), (300, 5), (7, 290)])
    assert workload.longest_tokens == 305
    assert (workload.prompt_tokens, workload.output_tokens) == (106, 105)
    assert workload.key == "106/105 trace of 3"


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (Workload, (0, 1)),
        (Workload, (10, 10, LengthShape.LOGNORMAL)),
        (Workload, (10, 10, LengthShape.FIXED, 0.5)),
        (Workload, (10, 10, LengthShape.TRACE)),
        (Workload.lognormal, (10, 10, 99.0, 1.0)),
        (Workload.lognormal, (10, 10, math.nan, 1.0)),
        (Workload.of_trace, ([],)),
        (Workload.of_trace, ([(1, 0)],)),
        (Workload.of_trace, ([(1, 1)] * 2000,)),
    ],
)
def test_senseless_workloads_are_refused_with_a_hint(
    build: Callable[..., Workload], arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(SpecError) as refused:
        build(*arguments)
    assert refused.value.hint
