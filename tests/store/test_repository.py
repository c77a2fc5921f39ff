"""The store keeps its promises, on disk and in memory alike."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from partitiond.core.dispatch.routing import KeyRates, RouteKind
from partitiond.core.errors import ConflictError, NotFoundError, StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.profile.jobs import JobState
from partitiond.core.profile.record import Profile
from partitiond.store import Store
from tests.store.make import make_job, make_plan, make_profile, make_record


def test_removing_a_model_keeps_its_profiles(store: Store) -> None:
    store.add_model(make_record())
    store.add_profile(make_profile())
    with pytest.raises(NotFoundError) as near:
        store.remove_model("opt-125")
    assert near.value.hint.startswith("Did you mean opt-125m?")
    store.remove_model("opt-125m")
    assert list(store.models()) == []
    assert len(store.profiles("opt-125m")) == 1
    with pytest.raises(NotFoundError, match="no model opt-125m"):
        store.remove_model("opt-125m")


def test_profiles_are_newest_first_and_replaced_by_id(store: Store) -> None:
    old = make_profile("old", started_at="2029-01-01T00:00:00Z")
    new = make_profile("new")
    other = make_profile("other", model="x")
    for profile in (new, old, other):
        store.add_profile(profile)
    assert [p.id for p in store.profiles("opt-125m")] == ["new", "old"]
    assert len(store.profiles()) == 3
    changed = dataclasses.replace(old, kv_cache_tokens=1)
    store.add_profile(changed)
    assert store.profile("old") == changed
    assert len(store.profiles()) == 3
    with pytest.raises(NotFoundError):
        store.profile("none")
    assert store.profiles("c") == ()
    store.add_profile(make_profile("p3", model="c"))
    assert [profile.id for profile in store.profiles("c")] == ["p3"]


def test_profiles_read_before_one_was_added_are_as_if_read_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    parse = store._parse
    for number, model in enumerate(("a", "a", "b", "b")):
        store.add_profile(make_profile(f"p{number}", model=model))

    def read() -> list[Sequence[Profile]]:
        return [store.profiles(model) for model in ("a", "b", None)]

    def noted(kind: type[Profile], text: str, what: str) -> Profile:
        parsed.append(what)
        return parse(kind, text, what)

    read()
    for changed in (
        make_profile("p9", model="a"),
        make_profile("p0", model="a", started_at="2020-01-01T00:00:00Z"),
        make_profile("p1", model="b"),  # another model's from now on
        make_profile("p2", model="b", started_at="2031-01-01T00:00:00Z"),
    ):
        monkeypatch.setattr(store, "_parse", noted)
        store.add_profile(changed)
        kept = read()
        assert parsed == [], "none of thousands is parsed again"
        monkeypatch.undo()
        store._profiles.clear()
        assert kept == read()


def test_a_job_keeps_its_place_when_it_advances(store: Store) -> None:
    store.put_job(make_job("j1"))
    store.put_job(make_job("j2"))
    store.put_job(make_job("j1", JobState.RUNNING))
    assert [j.id for j in store.jobs()] == ["j2", "j1"]
    assert store.job("j1").state is JobState.RUNNING
    assert [j.id for j in store.jobs(limit=1)] == ["j2"]
    with pytest.raises(NotFoundError):
        store.job("none")


def test_only_jobs_that_have_ended_are_dropped_the_one_that_ended_first_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.store.repository.MAX_JOBS", 2)

    def end(job_id: str, at: str) -> None:
        store.put_job(
            dataclasses.replace(make_job(job_id, JobState.SUCCEEDED), updated_at=f"2030-01-01T{at}")
        )

    for n in range(5):
        store.put_job(make_job(f"open-{n}", [JobState.QUEUED, JobState.RUNNING][n % 2]))
    for n in range(3):
        end(f"ended-{n}", f"00:00:0{n}Z")
    assert [j.id for j in store.jobs(limit=None)] == [
        "ended-2",
        "ended-1",
        *(f"open-{n}" for n in range(4, -1, -1)),
    ]
    # The oldest of all ends last, and stays until two others have ended after it.
    end("open-0", "00:00:09Z")
    assert store.job("open-0").state is JobState.SUCCEEDED
    store.put_job(make_job("open-5"))
    assert {j.id for j in store.jobs() if j.state is JobState.SUCCEEDED} == {"open-0", "ended-2"}
    assert len([j for j in store.jobs() if j.state is not JobState.SUCCEEDED]) == 5


def test_the_last_plan_set_is_the_applied_one_and_plans_do_not_fill_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.store.repository.MAX_PLANS", 3)
    assert store.plan() is None
    for plan_id in ("a", "b", "a", "c", "d", "e"):
        store.set_plan(make_plan(plan_id))
        assert store.plan() == make_plan(plan_id)
    assert [plan.id for plan in store.applied_plans(9)] == ["e", "d", "c"]


def test_events_can_be_followed(store: Store) -> None:
    made = [store.add_event("t", "k", "s", str(n)) for n in range(5)]
    assert [e.id for e in made] == [1, 2, 3, 4, 5]
    assert list(store.events()) == made
    assert list(store.events(limit=2)) == made[-2:]
    assert list(store.events(after=2, limit=2)) == made[2:4]
    assert list(store.events(after=5)) == []


def test_keys_are_kept_by_hash(store: Store) -> None:
    first = KeyRecord(id="k1", sha256="a" * 64, label="first", models=("m",), created_at="t")
    second = KeyRecord(id="k0", sha256="b" * 64, label="second", created_at="t")
    store.add_key(first)
    store.add_key(second)
    assert list(store.keys()) == [first, second]
    assert store.keys() is store.keys(), "the loop asks at every pass"
    with pytest.raises(ConflictError):
        store.add_key(first)
    assert list(store.keys()) == [first, second]
    rotated = dataclasses.replace(
        first,
        sha256="c" * 64,
        previous_sha256="a" * 64,
        previous_until="2030-01-01T00:00:00Z",
        routes=(RouteKind.EMBED,),
        rates=KeyRates(requests_per_minute=5),
        weight=2.0,
    )
    store.update_key(rotated)
    assert list(store.keys()) == [rotated, second], "it keeps its place"
    assert store.key("k1") == rotated
    store.remove_key("k1")
    assert list(store.keys()) == [second]
    with pytest.raises(NotFoundError, match="no key k1"):
        store.key("k1")
    with pytest.raises(NotFoundError):
        store.update_key(rotated)
    with pytest.raises(NotFoundError):
        store.remove_key("k1")


def test_counters_grow_by_one_from_any_thread(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda _: store.next_counter("routing"), range(80)))
    assert sorted(seen) == list(range(1, 81))
    assert store.next_counter("other") == 1


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.models()


def test_marks_are_kept_by_kind_and_subject(store: Store) -> None:
    store.set_mark("cordon", "GPU-b", "fan", at="2030-01-01T00:00:00Z")
    store.set_mark("cordon", "GPU-a", "memory")
    store.set_mark("asleep", "GPU-a", "1")
    store.set_mark("cordon", "GPU-b", "fan again")
    assert dict(store.marks("cordon")) == {"GPU-a": "memory", "GPU-b": "fan again"}
    assert list(store.marks("cordon")) == ["GPU-a", "GPU-b"]
    assert dict(store.marks("nothing")) == {}
    for _ in range(2):  # taken off once more is no error
        store.set_mark("cordon", "GPU-a", None)
        assert dict(store.marks("cordon")) == {"GPU-b": "fan again"}
