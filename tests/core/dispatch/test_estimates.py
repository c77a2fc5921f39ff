"""What a request will use is estimated from its size and from what its own key used before."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import estimates
from partitiond.core.dispatch.admission import KV_SHARE, Cost, admits
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.estimates import (
    FIRST_BYTES,
    FIRST_OUTPUTS,
    FIRST_TOKENS_PER_BYTE,
    MAX_OVERCOMMIT,
    REMEMBERED_BYTES,
    UNKNOWN_KEY,
    FiguresOfKeys,
    KeyFigures,
    OutputP90,
    estimate,
)


def learned(p90: float) -> KeyFigures:
    return KeyFigures(output=OutputP90(p90, outputs=FIRST_OUTPUTS))


def estimated(figures: KeyFigures = UNKNOWN_KEY, **of: Any) -> Cost:
    return estimate(figures, **{"sequences": 1, "max_model_len": 0, **of})


def reserved(cost: Cost) -> tuple[int, int, int | None]:
    return cost.prompt_tokens, cost.output_tokens, cost.output_limit


@pytest.mark.parametrize(
    ("limit", "output", "most"), [(20, 20, 20), (500, 500, 500), (0, 0, 0), (None, 100, None)]
)
def test_the_limit_is_reserved_and_without_one_what_is_usual(
    limit: int | None, output: int, most: int | None
) -> None:
    for figures in (learned(100.0), KeyFigures(output=OutputP90(100.0))):
        assert reserved(estimated(figures, prompt_tokens=50, max_tokens=limit)) == (
            50, output, most,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("p90", "outputs", "limit", "kv_tokens"),
    [
        (100.0, FIRST_OUTPUTS, 500, 150),  # most write no more than that
        (100.0, FIRST_OUTPUTS, 60, 110),
        (100.0, FIRST_OUTPUTS, None, 150),
        (100.0, FIRST_OUTPUTS - 1, 500, 550),  # not known yet
        (100.0, FIRST_OUTPUTS - 1, None, 150),
        (1.0, FIRST_OUTPUTS, 8000, math.ceil(8050 / MAX_OVERCOMMIT)),
    ],
)
def test_kv_tokens_are_what_is_usual_and_a_part_of_what_may_be(
    p90: float, outputs: int, limit: int | None, kv_tokens: int
) -> None:
    figures = KeyFigures(output=OutputP90(p90, outputs=outputs))
    assert estimated(figures, prompt_tokens=50, max_tokens=limit).kv_tokens == kv_tokens


def test_each_choice_of_each_prompt_writes_and_holds_its_prompt() -> None:
    cost = estimated(learned(100.0), sequences=6, prompts=3, prompt_tokens=30, max_tokens=20)
    assert reserved(cost) == (30, 6 * 20, 6 * 20)
    assert (cost.sequences, cost.prompts, cost.kv_tokens) == (6, 3, 6 * (10 + 20))
    assert cost.tokens == 150


@pytest.mark.parametrize(
    ("prompts", "tokens", "limit", "expected"),
    [
        (1, 900, 200, (900, 100, 100)),
        (1, 900, None, (900, 100, 100)),
        (1, 100, None, (100, 256, 900)),
        (1, 5000, 200, (1000, 0, 0)),
        (4, 1600, 700, (1600, 4 * 600, 4 * 600)),
        (4, 9000, 700, (4000, 0, 0)),
    ],
)
def test_nothing_is_longer_than_the_context(
    prompts: int, tokens: int, limit: int | None, expected: tuple[int, int, int]
) -> None:
    """The context is each prompt's own, with the output beside it."""
    cost = estimated(
        sequences=prompts, prompts=prompts, prompt_tokens=tokens, max_tokens=limit,
        max_model_len=1000,
    )  # fmt: skip
    assert reserved(cost) == expected
    assert cost.context == 1000


@given(
    st.integers(1, 100), st.integers(0, 10**6), st.none() | st.integers(0, 10**6),
    st.floats(1, 1e5), st.integers(0, 10**5),
)  # fmt: skip
def test_an_estimate_never_exceeds_what_context_and_limit_allow(
    sequences: int, prompt: int, max_tokens: int | None, p90: float, max_len: int
) -> None:
    cost = estimated(
        learned(p90), sequences=sequences, prompt_tokens=prompt, max_tokens=max_tokens,
        max_model_len=max_len,
    )  # fmt: skip
    assert cost.kv_tokens >= 0
    if max_len:
        assert cost.kv_tokens <= max_len * sequences
    if max_tokens is not None:
        assert cost.kv_tokens <= sequences * (prompt + max_tokens + 1)
        assert cost.output_tokens <= sequences * max_tokens


@pytest.mark.parametrize(
    ("asked", "limit", "longest", "each"),
    [(1, 20, 0, 1), (5, 20, 0, 5), (5, 3, 1000, 3), (5, 0, 0, 5), (5000, None, 1000, 990),
     (5000, None, 0, 5000)],
)  # fmt: skip
def test_an_event_holds_what_was_asked_but_no_more_than_can_be_written(
    asked: int, limit: int | None, longest: int, each: int
) -> None:
    cost = estimated(prompt_tokens=10, max_tokens=limit, max_model_len=longest, interval=asked)
    assert cost.interval == each


# Keys apart


def test_the_answers_of_one_key_change_no_estimate_of_another() -> None:
    """Neither short ones, which would let the other's requests overrun a replica, nor long ones."""
    keys = FiguresOfKeys()
    for _ in range(FIRST_OUTPUTS):
        keys.learn("long", prompt=(1000, 400), output_tokens=1560)
    asks = {"prompt_bytes": 100, "max_tokens": 2000}
    known, unknown = (estimated(keys.of(key), **asks) for key in ("long", "new"))
    for output in (1, 30_000):
        for _ in range(1200):
            keys.learn("short", prompt=(100_000, 1000), text=(5000, 50), output_tokens=output)
        assert estimated(keys.of("long"), **asks) == known
        assert estimated(keys.of("new"), **asks) == unknown
    assert known.output_tokens == unknown.output_tokens == 2000


def test_whatever_a_key_has_taught_its_requests_overrun_a_replica_by_a_bounded_factor() -> None:
    keys = FiguresOfKeys()
    for _ in range(5000):
        keys.learn("k", output_tokens=1)
    cache, running = 10_000, 0
    cost = estimated(keys.of("k"), prompt_tokens=10, max_tokens=1560)
    while admits(ReplicaLoad("r", running, 10_000, running * cost.kv_tokens, cache), cost):
        running += 1
    assert running * (10 + 1560) <= MAX_OVERCOMMIT * KV_SHARE * cache
    assert running > 40


def test_the_figures_of_keys_are_bounded_and_the_longest_unused_goes() -> None:
    keys = FiguresOfKeys()
    for number in range(estimates.MAX_KEYS):
        keys.learn(f"k{number}", prompt=(100_000, 50_000))
    keys.learn("k0", prompt=(100_000, 50_000))
    keys.learn("new", prompt=(100_000, 50_000))
    assert len(keys) == estimates.MAX_KEYS
    assert keys.of("k0").prompt.value == keys.of("new").prompt.value == 0.5
    assert keys.of("k1") == UNKNOWN_KEY


def test_each_figure_learns_from_its_own_pair() -> None:
    keys = FiguresOfKeys()
    keys.learn("k", prompt=(10**6, 10**5), text=(10**6, 5 * 10**5), output_tokens=900)
    known = keys.of("k")
    assert known.prompt.value == pytest.approx(0.1)
    assert known.text.value == pytest.approx(0.5)
    assert known.output.value == 900
    keys.learn("k")
    assert keys.of("k") == known


# The estimators


@given(st.integers(0, 2**32), st.floats(20, 2000))
def test_the_output_estimate_settles_near_the_90th_percentile(seed: int, mean: float) -> None:
    dice = random.Random(seed)
    lengths = [max(1, round(dice.expovariate(1 / mean))) for _ in range(3000)]
    p90 = OutputP90()
    late = []
    for number, length in enumerate(lengths):
        p90 = p90.observe(length)
        if number > 1500:
            late.append(p90.value)
    longer = sum(length > value for length, value in zip(lengths[1501:], late, strict=True))
    assert 0.06 < longer / len(late) < 0.14


def test_the_first_outputs_count_by_the_largest() -> None:
    p90 = OutputP90()
    for number in range(FIRST_OUTPUTS):
        assert not p90.is_learned
        p90 = p90.observe(2000 if number == 3 else 10)
    assert p90.is_learned
    assert p90.value == 2000
    assert p90.observe(10).value < 2000 < p90.observe(2001).value


def ratio(*texts: tuple[int, int]) -> float:
    """Tokens per byte of prompts, after texts of so many bytes and tokens."""
    keys = FiguresOfKeys()
    for text in texts:
        keys.learn("k", prompt=text)
    return keys.of("k").prompt.value


def test_a_ratio_is_weighted_by_bytes_and_old_texts_fade() -> None:
    """Sixty one-letter prompts, all template, weigh less than one page."""
    assert ratio(*[(1, 12)] * 60) == pytest.approx(0.3, abs=0.06)
    assert ratio((5000, 500)) == pytest.approx(ratio(*[(500, 50)] * 10))
    assert ratio((5000, 500)) == pytest.approx((0.3 * FIRST_BYTES + 500) / (FIRST_BYTES + 5000))
    assert ratio((10**9, 10**8)) == pytest.approx(0.1, rel=0.01)
    anew = [(10_000, 4_000)] * int(6 * REMEMBERED_BYTES / 10_000)
    assert ratio((10**9, 10**8), *anew) == pytest.approx(0.4, rel=0.01)


def test_nonsense_is_not_learned() -> None:
    assert ratio((0, 5), (5, 0)) == FIRST_TOKENS_PER_BYTE
    assert OutputP90().observe(0) == OutputP90()
