"""The service says whether one more model fits, with a real store and planner."""

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.core.model.spec import Demand, ModelSource, SourceKind
from tests.controller.host import Host
from tests.controller.samples import measured_profile, spec


async def test_a_model_that_fits_is_placed_and_not_kept(host: Host) -> None:
    fit = await host.service.fit.check(spec("a", demand=Demand(req_per_s=0.1)))
    assert fit.fits
    assert not fit.registered
    assert {p.model for p in fit.preview.plan.placements} == {"a"}
    assert "Nothing that runs is moved or stopped." in fit.summary
    assert fit.frontiers[0].kind == "estimated"
    assert fit.frontiers[0].planned_batch is not None
    assert list(host.service.models.models()) == []
    assert list(host.service.parts.store.profiles()) == []
    assert host.service.plans.applied() is None


async def test_its_plan_cannot_be_applied(host: Host) -> None:
    fit = await host.service.fit.check(spec("a"))
    with pytest.raises(Exception, match="there is no plan"):
        await host.service.plans.apply(fit.preview.plan.id)


async def test_one_model_too_many_does_not_fit_and_says_why(host: Host) -> None:
    for profile in (measured_profile("a", cores=2), measured_profile("a")):
        host.store.add_profile(profile)
    await host.register("a", demand=Demand(req_per_s=1.0), min_replicas=2)
    await host.serves("a")
    fit = await host.service.fit.check(spec("b", demand=Demand(req_per_s=1e4)))
    assert not fit.fits
    assert "b" in " ".join(fit.summary)


async def test_what_was_measured_counts_before_an_estimate(host: Host) -> None:
    host.store.add_profile(measured_profile("a"))
    fit = await host.service.fit.check(spec("a"))
    assert {view.kind for view in fit.frontiers} == {"measured"}


async def test_a_name_that_is_taken_shows_what_changing_it_would_do(host: Host) -> None:
    host.store.add_profile(measured_profile("a"))
    await host.register("a", auto=False)
    assert (await host.service.fit.check(spec("a", min_replicas=2))).registered


async def test_a_model_that_cannot_be_had_is_refused_as_when_registering(host: Host) -> None:
    with pytest.raises(ModelSourceError):
        await host.service.fit.check(spec("a", source=ModelSource(SourceKind.FOLDER, "missing")))
