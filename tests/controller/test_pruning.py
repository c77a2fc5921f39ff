"""Which profiles may be deleted: only those that no plan uses, or would use."""

import dataclasses

from partitiond.controller.pruning import SUPERSEDED, prunable
from partitiond.core.plan import Placement, Plan
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.spec import ModelSpec
from partitiond.core.workload import Workload
from partitiond.store import open_store
from tests.controller.samples import measured_profile, placement, plan, spec
from tests.controller.test_service import Host

NEW, OLD = (measured_profile("a", profile_id=name) for name in ("new", "old"))
OTHER_LENGTHS = dataclasses.replace(NEW, id="long", workload=Workload(4096, 16))


def found(
    *profiles: Profile,
    specs: tuple[ModelSpec, ...] = (spec("a"),),
    plans: tuple[Plan, ...] = (),
    stale: tuple[str, ...] = (),
) -> dict[str, tuple[str, ...]]:
    """Reasons by id; profiles are given newest first, and `stale` names ids."""
    by_name = {"a": specs} if specs else {}
    pruned = prunable(profiles, by_name, plans, lambda p: ("old driver",) * (p.id in stale))
    return {one.id: one.reasons for one in pruned}


def using(profile_id: str) -> Placement:
    base = placement("a-1")
    return dataclasses.replace(
        base, candidate=dataclasses.replace(base.candidate, profile_id=profile_id)
    )


def test_one_that_a_newer_one_has_followed_is_superseded() -> None:
    assert found(NEW, OLD) == {"old": (SUPERSEDED,)}
    assert found(OLD, NEW) == {"new": (SUPERSEDED,)}
    assert found(OLD) == {}
    guess = dataclasses.replace(OLD, kind=ProfileKind.ESTIMATED)
    assert found(NEW, guess, stale=("old",)) == {}  # it is made anew each time, under one name
    larger = measured_profile("a", profile_id="larger", cores=2)
    assert found(NEW, larger) == {}  # of another size


def test_a_stale_one_goes_only_once_another_is_there() -> None:
    assert found(OLD, stale=("old",)) == {}
    assert found(NEW, OLD, stale=("old",)) == {"old": (SUPERSEDED, "old driver")}
    # Of other lengths: no plan uses it, but it was measured by hand, and speaks still.
    assert found(NEW, OTHER_LENGTHS) == {}
    assert found(NEW, OTHER_LENGTHS, stale=("long",)) == {"long": ("old driver",)}


def test_what_a_plan_rests_on_stays() -> None:
    assert found(NEW, OLD, plans=(plan(using("old")),)) == {}
    assert found(NEW, OLD, plans=(plan(using("old@mps-20")),)) == {}
    asleep = dataclasses.replace(plan(), asleep=(using("old"),))
    assert found(NEW, OLD, plans=(asleep,)) == {}
    assert found(NEW, OLD, plans=(plan(using("older")),)) == {"old": (SUPERSEDED,)}


def test_what_a_release_that_may_come_back_would_use_stays() -> None:
    before = spec("a", workload=OTHER_LENGTHS.workload)
    assert found(NEW, OTHER_LENGTHS, specs=(spec("a"), before), stale=("long",)) == {}


def test_profiles_of_models_that_are_not_registered_stay() -> None:
    assert found(NEW, OLD, specs=(), stale=("old",)) == {}


async def test_nothing_is_deleted_before_somebody_says_so() -> None:
    store = open_store(":memory:")
    here = Host(store)
    for profile in (OLD, NEW):
        at = dataclasses.replace(profile.provenance, started_at=f"2026-01-0{len(profile.id)}")
        store.add_profile(dataclasses.replace(profile, provenance=at))
    await here.service.start()
    await here.service.register(spec("a", auto=False))
    first = {p.id for p in store.profiles()}
    (one,) = here.service.prune_profiles(delete=False)
    assert {p.id for p in store.profiles()} == first
    store.set_plan(plan(using(one.id), plan_id="plan-8"))
    assert here.service.prune_profiles(delete=True) == ()
    store.set_plan(plan(plan_id="plan-9"))
    assert here.service.prune_profiles(delete=True) == (one,)
    assert {p.id for p in store.profiles()} == first - {one.id}
    assert "profile-deleted" in here.kinds()
    assert here.service.prune_profiles(delete=True) == ()
    await here.service.shutdown(stop_engines=True)
    store.close()
