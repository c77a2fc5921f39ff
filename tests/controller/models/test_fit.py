"""The service says whether one more model fits, with a real store and planner."""

import pytest

from partitiond.core.errors import ModelSourceError, NotFoundError
from partitiond.core.model.spec import Autoscale, Demand, EngineOptions, ModelSource, SourceKind
from tests.controller.host import Host
from tests.controller.samples import spec


async def test_a_model_that_fits_is_placed_not_kept_and_its_plan_cannot_be_applied(
    host: Host,
) -> None:
    fit = await host.service.fit.check(spec("a", demand=Demand(req_per_s=0.1)))
    assert (fit.fits, fit.registered) == (True, False)
    assert {p.model for p in fit.preview.plan.placements} == {"a"}
    assert "Nothing that runs is moved or stopped." in fit.summary
    assert fit.frontiers[0].kind == "estimated"
    assert fit.frontiers[0].planned_batch is not None
    assert [*host.service.models.models(), *host.store.profiles()] == []
    assert host.service.plans.applied() is None
    with pytest.raises(NotFoundError, match="there is no plan"):
        await host.service.plans.apply(fit.preview.plan.id)
    with pytest.raises(ModelSourceError) as refused:  # as when registering
        await host.service.fit.check(spec("a", source=ModelSource(SourceKind.FOLDER, "missing")))
    assert refused.value.facts["model"] == "a", "of which a plan of several is told"


async def test_one_model_too_many_does_not_fit_and_says_why(host: Host) -> None:
    host.measured("a")
    fit = await host.service.fit.check(spec("a"))
    assert {view.kind for view in fit.frontiers} == {"measured"}, "which counts before an estimate"
    await host.register("a", demand=Demand(req_per_s=1.0), min_replicas=2)
    await host.serves("a")
    assert (await host.service.fit.check(spec("a", min_replicas=2))).registered
    fit = await host.service.fit.check(spec("b", demand=Demand(req_per_s=1e4)))
    assert not fit.fits
    assert "b" in " ".join(fit.summary)


async def test_a_model_that_sleeps_goes_on_sleeping_in_the_plan_with_its_change(host: Host) -> None:
    can_sleep = EngineOptions(sleep_mode=True)
    await host.register("a", engine=can_sleep, engine_kind="simulated", auto=False)
    host.service.models.put_to_sleep("a")
    changed = spec("a", engine=can_sleep, engine_kind="simulated", auto=False, min_replicas=1)
    new = [spec("b"), spec("zero", autoscale=Autoscale(600))]
    preview = await host.service.fit.plan_with([changed, *new])
    assert {p.model for p in preview.plan.placements} == {"b"}
