"""Obstacles to running a model are recognised, and forgotten after relevant changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from partitiond.core.plan.record import Placement
from partitiond.core.replica import obstacles
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.obstacles import Facts, FailedStarts, Obstacle, ObstacleKind
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement
from tests.planner.test_candidate_profiles import profile

NOW, LATER = "2026-01-01T00:00:00.000Z", "2026-01-01T01:00:00.000Z"
FAILED, SERVING = ReplicaState.FAILED, ReplicaState.SERVING


def of(replica_id: str = "a-1", *, release: str = "r1", **changes: Any) -> Placement:
    plain = placement(replica_id)
    candidate = dataclasses.replace(plain.candidate, release=release, **changes)
    return dataclasses.replace(plain, candidate=candidate)


def engine(
    of_what: Placement,
    state: ReplicaState = FAILED,
    starts: int = HOPELESS_FAILURES,
    since: float = 10.0,
    **changes: Any,
) -> ObservedReplica:
    made = ObservedReplica(of_what.replica_id, "g", of_what, state, 0, since, starts, "no memory")
    return dataclasses.replace(made, failed_starts=starts, **changes)


def other(state: ReplicaState, **changes: Any) -> ObservedReplica:
    """Another engine, of the same release unless said otherwise, that has not failed."""
    return engine(of("a-2", **changes), state, 0)


def looked(
    *engines: ObservedReplica,
    known: Sequence[FailedStarts] = (),
    release: str | None = "r1",
    now: str = NOW,
    **more: Any,
) -> tuple[FailedStarts, ...]:
    return obstacles.failed_starts(known, engines, lambda _model, _variant: release, now, **more)


ONCE = FailedStarts("a", "", "test-cpu", "r1", "no memory", NOW, 10.0)


@pytest.mark.parametrize(
    ("engines", "kept"),
    [
        ([engine(of())], True),
        ([engine(of(), starts=HOPELESS_FAILURES - 1)], False),
        ([engine(of(), ReplicaState.STARTING)], False),
        ([engine(of(release="r0"))], False),
        ([engine(of()), other(SERVING)], False),
        ([engine(of()), other(ReplicaState.SLEEPING)], False),
        # What serves speaks only for its form and hardware.
        ([engine(of()), other(SERVING, hardware="h100")], True),
        ([engine(of()), other(SERVING, variant="fp8")], True),
        # One on its way out does not show that it starts.
        ([engine(of()), other(ReplicaState.DRAINING)], True),
        ([engine(of()), other(SERVING, release="r0")], True),
        ([engine(of()), other(ReplicaState.FAILING)], True),
    ],
    ids=[
        "three times", "twice", "starts again", "of another release", "one serves", "one sleeps",
        "on other hardware", "as another form", "one drains", "one of a former release serves",
        "one is being ended",
    ],
)  # fmt: skip
def test_three_failed_starts_in_a_row_are_an_obstacle_where_none_serves(
    engines: list[ObservedReplica], kept: bool
) -> None:
    assert looked(*engines) == (ONCE,) * kept
    if kept:  # although the engine is forgotten
        assert looked(*engines[1:], known=[ONCE], now=LATER) == (ONCE,)


def test_what_failed_before_an_engine_of_the_model_started_elsewhere_counts_no_more() -> None:
    after = [
        obstacles.failed_starts([ONCE], [engine(of())], lambda *_: "r1", NOW, {"a": at})
        for at in (10.0, 9.0)
    ]
    assert after == [(), (ONCE,)]


def test_each_further_failure_doubles_the_pause() -> None:
    again = engine(of(), starts=HOPELESS_FAILURES + 1, since=500.0, last_error="still none")
    (twice,) = looked(again, known=[ONCE], now=LATER)
    assert twice == dataclasses.replace(ONCE, error="still none", at=500.0, rounds=2)
    assert looked(again, known=[twice], now=LATER) == (twice,), "the same failure counts once"
    assert ONCE.retry_at == 10.0 + obstacles.RETRY_BASE_SECONDS
    assert twice.retry_at == 500.0 + 2 * obstacles.RETRY_BASE_SECONDS
    many = dataclasses.replace(ONCE, rounds=10_000)
    assert many.retry_at == 10.0 + obstacles.RETRY_MAX_SECONDS


def found(facts: Facts, at: float = 20.0) -> Obstacle | None:
    return obstacles.obstacle_of("a", facts, at, NOW)


ABSENT = ("there is no vLLM.", "Install it.")
NO_ROUTE = {"": "no route."}
BOTH = {"": "no route.", "fp8": "no room."}
BEFORE, AFTER = ONCE.retry_at - 0.001, ONCE.retry_at
FAILS = dataclasses.replace(ONCE, error="no memory\n    of the log")


@pytest.mark.parametrize(
    ("facts", "at", "words"),
    [
        # The first of several is told.
        (Facts(engine=ABSENT, unfetched=NO_ROUTE, unstarted=(ONCE,)), 20.0,
         "a cannot run here: there is no vLLM. Install it."),
        (Facts(unfetched=NO_ROUTE), 20.0, "a cannot run here: no route."),
        (Facts(unstarted=(FAILS,)), BEFORE,
         "a cannot run on test-cpu: its engine failed to start 3 times in a row: no memory. It is "
         "tried again by itself after a while; `partitiond profile a` tries it now."),
        # A start is tried once more after its pause.
        (Facts(unstarted=(ONCE,)), AFTER, None),
        # What serves has no obstacle.
        (Facts(ready=frozenset({"fp8"}), engine=ABSENT), 20.0, None),
        (Facts(ready=frozenset({""}), unfetched=BOTH), 20.0, "a as fp8 cannot run here: no room."),
        # Files that are missing hide no start that fails.
        (Facts(unfetched={"fp8": "no such repository"}, unstarted=(ONCE,)), 11.0,
         "no such repository; and its engine failed to start 3 times"),
    ],
)  # fmt: skip
def test_what_people_read(facts: Facts, at: float, words: str | None) -> None:
    obstacle = found(facts, at)
    assert (obstacle is None) == (words is None)
    assert (words or "") in str(obstacle)
    assert ("partitiond profile" in str(obstacle)) == ("partitiond profile" in (words or ""))


def test_a_profile_that_failed_is_told() -> None:
    assert obstacles.profile_failed("a", "job-1", "too slow", NOW).headline == (
        "a is not started by itself: its profile failed (job-1): too slow."
    )


def test_the_profiles_that_may_be_planned_with_are_those_of_other_forms() -> None:
    kept = [profile(variant=variant) for variant in ("", "fp8")]
    obstacle = Obstacle("a", ObstacleKind.FILES_MISSING, "", "", NOW, (("fp8", ""),))
    assert obstacle.open(kept) == (kept[0],)
