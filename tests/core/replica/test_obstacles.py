"""Obstacles to running a model are recognised, and forgotten after relevant changes."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.obstacles import (
    RETRY_BASE_SECONDS,
    RETRY_MAX_SECONDS,
    Facts,
    FailedStarts,
    Obstacle,
    ObstacleKind,
    failed_starts,
    obstacle_of,
    profile_failed,
)
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement
from tests.planner.test_candidate_profiles import profile

NOW, LATER = "2026-01-01T00:00:00.000Z", "2026-01-01T01:00:00.000Z"
FAILED, SERVING = ReplicaState.FAILED, ReplicaState.SERVING


def of(replica_id: str = "a-1", *, release: str = "r1", **changes: object) -> Placement:
    plain = placement(replica_id)
    candidate = dataclasses.replace(plain.candidate, release=release, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(plain, candidate=candidate)


def engine(
    of_what: Placement,
    state: ReplicaState = FAILED,
    starts: int = HOPELESS_FAILURES,
    since: float = 10.0,
    **changes: object,
) -> ObservedReplica:
    made = ObservedReplica(of_what.replica_id, "g", of_what, state, 0, since, starts, "no memory")
    return dataclasses.replace(made, failed_starts=starts, **changes)  # type: ignore[arg-type]


def looked(
    *engines: ObservedReplica,
    known: Sequence[FailedStarts] = (),
    release: str | None = "r1",
    now: str = NOW,
) -> tuple[FailedStarts, ...]:
    return failed_starts(known, engines, lambda _model, _variant: release, now)


ONCE = FailedStarts("a", "", "test-cpu", "r1", "no memory", NOW, 10.0)


def test_three_failed_starts_in_a_row_are_kept_although_the_engine_is_forgotten() -> None:
    assert looked(engine(of())) == (ONCE,)
    assert looked(known=[ONCE], now=LATER) == (ONCE,)


@pytest.mark.parametrize(
    "engines",
    [
        [engine(of(), starts=HOPELESS_FAILURES - 1)],
        [engine(of(), ReplicaState.STARTING)],
        [engine(of(release="r0"))],
        [engine(of()), engine(of("a-2"), SERVING, 0)],
        [engine(of()), engine(of("a-2"), ReplicaState.SLEEPING, 0)],
    ],
    ids=["twice", "starts again", "of another release", "one serves", "one sleeps"],
)
def test_other_failures_are_no_obstacle(engines: list[ObservedReplica]) -> None:
    assert looked(*engines) == ()


def test_what_serves_speaks_only_for_its_form_and_hardware() -> None:
    serving = [
        engine(of("a-2", hardware="h100"), SERVING, 0),
        engine(of("a-3", variant="fp8"), SERVING, 0),
        engine(of("a-4"), SERVING, 0, ending=True),
    ]
    assert looked(engine(of()), *serving) == (ONCE,)


@pytest.mark.parametrize("release", ["r2", None], ids=["changed", "gone"])
def test_another_release_is_tried_anew(release: str | None) -> None:
    assert looked(known=[ONCE], release=release) == ()


def test_what_failed_before_an_engine_of_the_model_started_elsewhere_counts_no_more() -> None:
    def after(at: float) -> tuple[FailedStarts, ...]:
        present = lambda _model, _variant: "r1"  # noqa: E731 - as short as it is
        return failed_starts([ONCE], [engine(of())], present, NOW, {"a": at})

    assert after(10.0) == ()
    assert after(9.0) == (ONCE,)


def test_engines_of_a_release_that_nobody_knows_count() -> None:
    assert [one.rounds for one in looked(engine(of(release="")))] == [1]


def test_each_further_failure_doubles_the_pause() -> None:
    again = engine(of(), starts=HOPELESS_FAILURES + 1, since=500.0, last_error="still none")
    (twice,) = looked(again, known=[ONCE], now=LATER)
    assert twice == dataclasses.replace(ONCE, error="still none", at=500.0, rounds=2)
    assert looked(again, known=[twice], now=LATER) == (twice,), "the same failure counts once"
    assert ONCE.retry_at == 10.0 + RETRY_BASE_SECONDS
    assert twice.retry_at == 500.0 + 2 * RETRY_BASE_SECONDS
    assert dataclasses.replace(ONCE, rounds=10_000).retry_at == 10.0 + RETRY_MAX_SECONDS


def found(facts: Facts, at: float = 20.0) -> Obstacle | None:
    return obstacle_of("a", facts, at, NOW)


ABSENT = ("there is no vLLM.", "Install it.")


def test_nothing_is_known_against_a_model() -> None:
    assert found(Facts()) is None


def test_the_first_obstacle_is_told() -> None:
    facts = [
        Facts(engine=ABSENT, unfetched={"": "no route."}, unstarted=(ONCE,)),
        Facts(unfetched={"": "no route."}, unstarted=(ONCE,)),
        Facts(unstarted=(ONCE,)),
    ]
    kinds = [obstacle.kind if (obstacle := found(these)) else None for these in facts]
    absent, missing, failed = list(ObstacleKind)[:3]
    assert kinds == [absent, missing, failed]


def test_what_serves_has_no_obstacle() -> None:
    assert found(Facts(ready=frozenset({"fp8"}), engine=ABSENT)) is None
    both = {"": "no route.", "fp8": "no room."}
    obstacle = found(Facts(ready=frozenset({""}), unfetched=both))
    assert obstacle is not None
    assert (obstacle.places, obstacle.reason) == ((("fp8", ""),), "no room.")
    assert found(Facts(ready=frozenset(both), unfetched=both)) is None


def test_a_start_is_tried_once_more_after_its_pause() -> None:
    facts = Facts(unstarted=(ONCE,))
    assert found(facts, ONCE.retry_at - 0.001) is not None
    assert found(facts, ONCE.retry_at) is None


def test_an_obstacle_covers_its_places_and_no_others() -> None:
    nowhere = Obstacle("a", ObstacleKind.ENGINE_ABSENT, "x.", "y.", NOW)
    some = dataclasses.replace(nowhere, places=(("", "h100"), ("fp8", "")))
    assert nowhere.covers("int4", "l4")
    assert [some.covers(*place) for place in (("", "h100"), ("fp8", "l4"))] == [True, True]
    assert [some.covers(*place) for place in (("", "l4"), ("int4", "h100"))] == [False, False]


def test_what_people_read() -> None:
    assert str(found(Facts(engine=ABSENT))) == ("a cannot run here: there is no vLLM. Install it.")
    failed = dataclasses.replace(ONCE, error="no memory\n    of the log")
    assert str(found(Facts(unstarted=(failed,)))) == (
        "a cannot run on test-cpu: its engine failed to start 3 times in a row: no memory. It is "
        "tried again by itself after a while; `partitiond profile a` tries it now."
    )
    assert "partitiond profile" not in str(found(Facts(unstarted=(ONCE,), measurable=False)))
    fp8 = found(Facts(unfetched={"fp8": "no route."}))
    assert fp8 is not None
    assert fp8.headline == "a as fp8 cannot run here: no route."
    assert profile_failed("a", "job-1", "too slow", NOW).headline == (
        "a is not started by itself: its profile failed (job-1): too slow."
    )


@pytest.mark.parametrize(
    "other",
    [
        engine(of("a-2"), ReplicaState.DRAINING, 0),
        engine(of("a-2", release="r0"), SERVING, 0),
        engine(of("a-2"), SERVING, 0, ending=True),
    ],
    ids=["one drains", "one of a former release serves", "one is being ended"],
)
def test_an_engine_that_is_on_its_way_out_does_not_show_that_it_starts(
    other: ObservedReplica,
) -> None:
    assert looked(engine(of()), other) == (ONCE,)
    assert looked(other, known=[ONCE]) == (ONCE,)


def test_files_that_are_missing_hide_no_start_that_fails() -> None:
    facts = Facts(unfetched={"fp8": "no such repository"}, unstarted=(ONCE,))
    found = obstacle_of("a", facts, 11.0, NOW)
    assert found is not None
    assert found.covers("fp8", "anything")
    assert found.covers("", "test-cpu")
    assert not found.covers("", "anything")
    assert "no such repository; and its engine failed to start 3 times" in found.reason


def test_the_profiles_that_may_be_planned_with_are_those_of_other_forms() -> None:
    kept = [profile(variant=variant) for variant in ("", "fp8")]
    found = Obstacle("a", ObstacleKind.FILES_MISSING, "", "", NOW, (("fp8", ""),))
    assert found.open(kept) == (kept[0],)
