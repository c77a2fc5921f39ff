"""How fast replicas write is learned, and which of them are slow beside the others."""

import random

import pytest

from partitiond.core.dispatch import speeds
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.speeds import FIRST_TOKENS, FIRST_TOKENS_PER_S, Speeds


def watched(paces: dict[str, float], planned: dict[str, float] | None = None) -> Speeds:
    """After 60 s in which each replica ended a request of some length every second."""
    dice, made = random.Random(1), Speeds()
    for second in range(60):
        for name, pace in paces.items():
            tokens = dice.choice([1, 20, 100, 400])
            plan = (planned or {}).get(name, 1.0)
            seconds = 0.1 * pace + tokens * 0.01 * pace
            made.observe(name, seconds, tokens, float(second), planned_seconds=plan)
    return made


def slow(made: Speeds, now: float, names: str = "abc") -> dict[str, float]:
    loads = [ReplicaLoad(name, 0, 8) for name in names]
    assert made.look(loads, now) is any(load.slowness != 1.0 for load in loads)
    return {load.replica_id: load.slowness for load in loads if load.slowness != 1.0}


@pytest.mark.parametrize(
    ("paces", "planned", "found"),
    [
        ({"a": 1.0, "b": 1.05, "c": 1.1}, {}, {}),
        ({"a": 1.0, "b": 1.0, "c": 3.0}, {}, {"c": 3.0}),
        ({"a": 1.0, "b": 99.0}, {}, {"b": speeds.MAX_SLOWNESS}),
        ({"a": 3.0, "b": 1.0}, {"a": 3.0}, {}),
        ({"a": 5.0}, {}, {}),
        ({"a": 1.0, "c": 9.0}, {"c": 0.0}, {}),
    ],
    ids=["alike", "one is slow", "at most so much", "as planned", "alone", "of another host"],
)
def test_a_replica_that_takes_longer_per_token_than_planned_beside_others_is_slow(
    paces: dict[str, float], planned: dict[str, float], found: dict[str, float]
) -> None:
    assert slow(watched(paces, planned), 60.0) == pytest.approx(found, rel=0.2)


def test_few_requests_mean_nothing() -> None:
    made = watched({"a": 1.0})
    for _ in range(int(speeds.ENOUGH_ANSWERS) - 1):
        made.observe("b", 90.0, 1000, 60.0, planned_seconds=1.0)
    assert slow(made, 60.0) == {}
    made.observe("b", 90.0, 1000, 61.0, planned_seconds=1.0)
    assert slow(made, 60.9) == {}, "it is looked at once a second"
    made.observe("b", 90.0, 1000, 61.0, planned_seconds=1.0)
    assert set(slow(made, 61.0)) == {"b"}


def test_slowness_fades_so_that_the_replica_is_tried_again_and_ends_with_its_process() -> None:
    fading, anew = (watched({"a": 1.0, "b": 1.0, "c": 3.0}) for _ in range(2))
    later = 60 + int(3 * speeds.HALF_LIFE_SECONDS)
    loads = [ReplicaLoad("c", 0, 8)]
    assert fading.look(loads, 60.0)
    for second in range(60, later):
        for name in "ab":
            fading.observe(name, 1.1, 100, float(second), planned_seconds=1.0)
    assert not fading.look(loads, float(later))
    assert loads[0].slowness == 1.0
    assert slow(anew, 60.0)
    anew.forget("c")
    assert slow(anew, 61.0) == {}


def test_a_speed_begins_at_the_profiles_figure_and_is_a_mean_over_tokens() -> None:
    made = Speeds()
    assert made.tokens_per_s("a") == FIRST_TOKENS_PER_S
    assert made.tokens_per_s("a", 50.0) == 50.0
    made.observe("a", FIRST_TOKENS / 100, FIRST_TOKENS, 0.0, planned_tokens_per_s=50.0)
    assert made.tokens_per_s("a", 50.0) == pytest.approx(75.0)
    for _ in range(60):
        made.observe("a", 10.0, 1000, 0.0)
    assert made.tokens_per_s("a") == pytest.approx(100.0, rel=0.01)
    made.forget("a")
    assert made.tokens_per_s("a", 50.0) == 50.0


def test_short_answers_do_not_make_long_ones_cheap() -> None:
    """An answer of one token is all prefill: seldom more than a token each half a second."""
    made = Speeds()
    for second in range(1000):
        made.observe("a", 0.5, 1, float(second))
    for _ in range(5):
        made.observe("a", 9.0, 900, 1000.0)
    assert made.tokens_per_s("a") > 80.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_nonsense_is_not_learned(seconds: float) -> None:
    made = Speeds()
    made.observe("a", seconds, 5, 0.0)
    made.observe("a", 1.0, 0, 0.0)
    assert made.tokens_per_s("a", 7.0) == 7.0
