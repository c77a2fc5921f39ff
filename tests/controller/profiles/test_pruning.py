"""Only profiles that no plan uses, or would use, may be deleted."""

import dataclasses

from partitiond.controller.profiles.pruning import SUPERSEDED, prunable
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.profile.record import Profile, ProfileKind
from tests.controller.host import Host
from tests.controller.samples import measured_profile, placement, plan, spec
from tests.machine import until

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
    placements = [placement for one in plans for placement in one.wanted]
    pruned = prunable(profiles, by_name, placements, lambda p: ("old driver",) * (p.id in stale))
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
    before = spec("a", workload=OTHER_LENGTHS.workload)  # a release that may come back
    assert found(NEW, OTHER_LENGTHS, specs=(spec("a"), before), stale=("long",)) == {}
    assert found(NEW, OLD, specs=(), stale=("old",)) == {}, "its model is not registered"


def dated(profile_id: str, day: int) -> Profile:
    profile = measured_profile("a", profile_id=profile_id)
    at = dataclasses.replace(profile.provenance, started_at=f"2026-01-0{day}")
    return dataclasses.replace(profile, provenance=at)


async def test_what_a_plan_that_waits_or_an_earlier_release_rests_on_stays(host: Host) -> None:
    store = host.store
    asked = spec("a", auto=False, demand=Demand(req_per_s=0.5))

    def pruned() -> set[str]:
        return {one.id for one in host.service.profiles.prune(delete=False)}

    def rests_on(plan: Plan) -> set[str]:
        return {p.candidate.profile_id.partition("@")[0] for p in plan.wanted}

    store.add_profile(dated("first", 1))
    await host.service.models.register(asked)
    await host.service.plans.apply()
    await host.serves("a")
    # A plan that is made by itself after a registration must not come to rest on the second.
    await until(lambda: not host.service.parts.plans.chain.planning)
    store.add_profile(dated("second", 2))
    assert rests_on((await host.service.plans.preview()).plan) == {"second"}
    store.add_profile(dated("third", 3))
    assert pruned() == set(), "the first is in use, and a plan made before may be applied"
    await host.restart()
    assert pruned() == {"second"}, "plans do not outlive the daemon"
    source = ModelSource(asked.source.kind, asked.source.ref, "r2")
    await host.service.models.update(dataclasses.replace(asked, source=source), None)
    await host.service.plans.apply()
    await until(lambda: len(host.runner.running()) == 1 and host.serving("a") == 1)
    applied = store.plan()
    assert applied is not None
    assert rests_on(applied) == {"third"}
    assert pruned() == {"second"}, "a roll-back would give the first its places again"
    assert [one.id for one in host.service.profiles.prune(delete=True)] == ["second"]
    assert {p.id for p in store.profiles("a")} >= {"first", "third"}
    assert (pruned(), "profile-deleted" in host.kinds()) == (set(), True)
