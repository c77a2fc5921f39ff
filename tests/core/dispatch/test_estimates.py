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
    LEAST_TOKENS_PER_BYTE,
    MAX_OVERCOMMIT,
    REMEMBERED_BYTES,
    UNKNOWN_KEY,
    FiguresOfKeys,
    KeyFigures,
    OutputP90,
    estimate,
)


def p90_of(tokens: float, outputs: int = FIRST_OUTPUTS) -> KeyFigures:
    return KeyFigures(output=OutputP90(tokens, outputs=outputs))


def estimated(figures: KeyFigures = UNKNOWN_KEY, **of: Any) -> Cost:
    return estimate(figures, **{"sequences": 1, "max_model_len": 0, "max_tokens": None, **of})


USUAL, FEW, LEAST = p90_of(100.0), p90_of(100.0, FIRST_OUTPUTS - 1), p90_of(1.0)
HI = {"prompt_tokens": 50}


def taught(*texts: tuple[int, int]) -> KeyFigures:
    """Of a key that has taught the lowest figures that it can."""
    keys = FiguresOfKeys()
    for _ in range(5000):
        for text in texts:
            keys.learn("k", prompt=text, text=text, output_tokens=1)
    return keys.of("k")


TAUGHT = taught((1000, 1), (1000, 125))


@pytest.mark.parametrize(
    ("figures", "asked", "prompt", "output", "most", "kv_tokens"),
    [
        # The limit is reserved, and without one what is usual; KV tokens are what is usual,
        (USUAL, {**HI, "max_tokens": 20}, 50, 20, 20, 70),
        (USUAL, {**HI, "max_tokens": 500}, 50, 500, 500, 150),
        (USUAL, HI, 50, 100, None, 150),
        # but all that may be while little is known, and always a part of that.
        (FEW, {**HI, "max_tokens": 500}, 50, 500, 500, 550),
        (FEW, HI, 50, 100, None, 150),
        (LEAST, {**HI, "max_tokens": 8000}, 50, 8000, 8000, math.ceil(8050 / MAX_OVERCOMMIT)),
        # Each choice of each prompt writes, and holds its prompt.
        (USUAL, {"sequences": 6, "prompts": 3, "prompt_tokens": 30, "max_tokens": 20},
         30, 120, 120, 180),
        # Nothing is longer than the context, which is each prompt's own with the output beside it.
        (p90_of(256.0), {"prompt_tokens": 900, "max_model_len": 1000}, 900, 100, 100, 1000),
        (p90_of(256.0), {"prompt_tokens": 100, "max_model_len": 1000}, 100, 256, 900, 356),
        (USUAL, {"prompt_tokens": 5000, "max_tokens": 200, "max_model_len": 1000},
         1000, 0, 0, 1000),
        (FEW, {"sequences": 4, "prompts": 4, "prompt_tokens": 1600, "max_tokens": 700,
               "max_model_len": 1000}, 1600, 2400, 2400, 4000),
        (FEW, {"sequences": 4, "prompts": 4, "prompt_tokens": 9000, "max_tokens": 700,
               "max_model_len": 1000}, 4000, 0, 0, 4000),
    ],
)  # fmt: skip
def test_what_is_reserved_and_what_is_expected(
    *, figures: KeyFigures, asked: dict[str, Any], prompt: int, output: int, most: int | None,
    kv_tokens: int,
) -> None:  # fmt: skip
    cost = estimated(figures, **asked)
    assert (cost.prompt_tokens, cost.output_tokens, cost.output_limit, cost.kv_tokens) == (
        prompt, output, most, kv_tokens,
    )  # fmt: skip
    assert cost.tokens == prompt + output
    assert (cost.sequences, cost.prompts, cost.context) == (
        asked.get("sequences", 1), asked.get("prompts", 1), asked.get("max_model_len", 0),
    )  # fmt: skip


@given(
    st.integers(1, 100), st.integers(0, 10**6), st.none() | st.integers(0, 10**6),
    st.floats(1, 1e5), st.integers(0, 10**5),
)  # fmt: skip
def test_an_estimate_never_exceeds_what_context_and_limit_allow(
    sequences: int, prompt: int, max_tokens: int | None, p90: float, max_len: int
) -> None:
    cost = estimated(
        p90_of(p90), sequences=sequences, prompt_tokens=prompt, max_tokens=max_tokens,
        max_model_len=max_len,
    )  # fmt: skip
    assert cost.kv_tokens >= 0
    if max_len:
        assert cost.kv_tokens <= max_len * sequences
    if max_tokens is not None:
        assert cost.kv_tokens <= sequences * (prompt + max_tokens + 1)
        assert cost.output_tokens <= sequences * max_tokens


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


@pytest.mark.parametrize("prompt", ["prompt_tokens", "prompt_bytes"])
@pytest.mark.parametrize(("size", "limit"), [(10, 1560), (785, 785), (1560, 10)])
def test_whatever_a_key_has_taught_its_requests_overrun_a_replica_by_a_bounded_factor(
    prompt: str, size: int, limit: int
) -> None:
    """Each byte of a prompt may be a token."""
    cache, running = 10_000, 0
    cost = estimated(TAUGHT, **{prompt: size}, max_tokens=limit)
    while admits(ReplicaLoad("r", running, 10_000, running * cost.kv_tokens, cache), cost):
        running += 1
    assert running > 5
    assert running * (size + limit) <= MAX_OVERCOMMIT * KV_SHARE * cache


def test_whatever_a_key_has_taught_its_text_is_reserved_and_charged() -> None:
    """By at least what the most compact text has in tokens; the limit in full."""
    cost = estimated(TAUGHT, prompt_bytes=8000, max_tokens=500)
    assert cost.prompt_tokens >= 8000 * LEAST_TOKENS_PER_BYTE
    assert cost.output_tokens == 500
    assert LEAST_TOKENS_PER_BYTE >= 1 / MAX_OVERCOMMIT
    assert TAUGHT.text.value >= LEAST_TOKENS_PER_BYTE


def test_what_is_no_text_teaches_nothing() -> None:
    """Neither a field that the template ignores nor spaces; what is just text does."""
    assert ratio((60_000, 31), (60_000, 7499)) == FIRST_TOKENS_PER_BYTE
    assert ratio((60_000, 7500)) < 0.14


def test_the_figures_of_keys_are_bounded_and_each_learns_from_its_own_pair() -> None:
    """The longest unused key goes."""
    keys = FiguresOfKeys()
    for number in [*range(estimates.MAX_KEYS), 0, estimates.MAX_KEYS]:
        keys.learn(
            f"k{number}", prompt=(10**6, 2 * 10**5), text=(10**6, 5 * 10**5), output_tokens=900
        )
    assert len(keys) == estimates.MAX_KEYS
    assert keys.of("k1") is UNKNOWN_KEY
    known = keys.of("k0")
    assert known.prompt.value == pytest.approx(0.2)
    assert known.text.value == pytest.approx(0.5)
    assert known.output.value == 900
    keys.learn("k0")
    assert keys.of("k0").prompt is known.prompt
    assert keys.of("k0").text is known.text
    assert keys.of("k0").output is known.output


# The estimators


@given(st.integers(0, 2**32), st.floats(20, 2000))
def test_the_output_estimate_settles_near_the_90th_percentile(seed: int, mean: float) -> None:
    dice = random.Random(seed)
    p90, longer = OutputP90(), 0
    for number in range(3000):
        length = max(1, round(dice.expovariate(1 / mean)))
        longer += number >= 1500 and length > p90.value
        p90 = p90.observe(length)
    assert 0.06 < longer / 1500 < 0.14


def test_the_first_outputs_count_by_the_largest() -> None:
    p90 = OutputP90()
    for number in range(FIRST_OUTPUTS):
        assert not p90.is_learned
        p90 = p90.observe(2000 if number == 3 else 10)
    assert p90.is_learned
    assert p90.value == 2000
    assert p90.observe(10).value < 2000 < p90.observe(2001).value
    assert p90.observe(0) == p90, "nonsense is not learned"


def ratio(*texts: tuple[int, int]) -> float:
    """Tokens per byte of prompts, after texts of so many bytes and tokens."""
    keys = FiguresOfKeys()
    for text in texts:
        keys.learn("k", prompt=text)
    return keys.of("k").prompt.value


def test_a_ratio_is_weighted_by_bytes_and_old_texts_fade() -> None:
    """Sixty one-letter prompts, all template, weigh less than one page."""
    assert ratio((0, 5), (5, 0)) == FIRST_TOKENS_PER_BYTE
    assert ratio(*[(1, 12)] * 60) == pytest.approx(0.3, abs=0.06)
    assert ratio((5000, 1000)) == pytest.approx(ratio(*[(500, 100)] * 10))
    assert ratio((5000, 1000)) == pytest.approx((0.3 * FIRST_BYTES + 1000) / (FIRST_BYTES + 5000))
    assert ratio((10**9, 2 * 10**8)) == pytest.approx(0.2, rel=0.01)
    anew = [(10_000, 4_000)] * int(6 * REMEMBERED_BYTES / 10_000)
    assert ratio((10**9, 2 * 10**8), *anew) == pytest.approx(0.4, rel=0.01)
