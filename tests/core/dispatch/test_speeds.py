"""How fast replicas write is learned."""

import pytest

from partitiond.core.dispatch.speeds import FIRST_TOKENS, FIRST_TOKENS_PER_S, Speeds


def test_a_speed_begins_at_the_profiles_figure_and_is_a_mean_over_tokens() -> None:
    made = Speeds()
    assert made.tokens_per_s("a") == FIRST_TOKENS_PER_S
    assert made.tokens_per_s("a", 50.0) == 50.0
    made.observe("a", FIRST_TOKENS / 100, FIRST_TOKENS, 50.0)
    assert made.tokens_per_s("a", 50.0) == pytest.approx(75.0)
    for _ in range(60):
        made.observe("a", 10.0, 1000)
    assert made.tokens_per_s("a") == pytest.approx(100.0, rel=0.01)
    made.forget("a")
    assert made.tokens_per_s("a", 50.0) == 50.0


def test_an_owner_knows_its_replicas_better() -> None:
    made = Speeds()
    made.observe("host:b", 1.0, 10**6)
    made.tell("host:b", 20.0)
    made.tell("host:b", 0.0)
    assert made.tokens_per_s("host:b") == 20.0


def test_short_answers_do_not_make_long_ones_cheap() -> None:
    """An answer of one token is all prefill: seldom more than a token each half a second."""
    made = Speeds()
    for _ in range(1000):
        made.observe("a", 0.5, 1)
    for _ in range(5):
        made.observe("a", 9.0, 900)
    assert made.tokens_per_s("a") > 80.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_nonsense_is_not_learned(seconds: float) -> None:
    made = Speeds()
    made.observe("a", seconds, 5)
    made.observe("a", 1.0, 0)
    assert made.tokens_per_s("a", 7.0) == 7.0
