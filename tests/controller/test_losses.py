"""A plan without room for a serving model is applied only with permission."""

import dataclasses

import pytest

from partitiond.core.errors import InputError
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.answers import PlanQuestion
from tests.controller.host import Host
from tests.controller.samples import spec


def one(name: str, req_per_s: float, **changes: object) -> ModelSpec:
    return spec(name, demand=Demand(req_per_s=req_per_s), max_replicas=1, auto=False, **changes)


@pytest.fixture
async def host(host: Host) -> Host:
    """Two cores, both taken, and a third model that asks for more than either."""
    host.measured("a", "b", "c", cores=(1,))
    for name in ("a", "b"):
        await host.service.models.register(one(name, 0.1))
    await host.service.plans.apply()
    await host.serves("a", "b")
    await host.service.models.register(one("c", 1.0))
    return host


def lost(host: Host) -> set[str]:
    plan = host.applied()
    return {"a", "b"} - {p.model for p in plan.wanted}


async def test_it_is_refused_by_name_and_nothing_is_changed(host: Host) -> None:
    before = host.applied()
    preview = await host.service.plans.preview()
    for plan_id in (preview.plan.id, None):
        with pytest.raises(InputError, match="without a replica") as raised:
            await host.service.plans.apply(plan_id)
        (name,) = {"a", "b"} - {p.model for p in preview.plan.wanted}
        assert raised.value.facts["models"] == [name]
        assert "--allow-outage" in raised.value.hint
        assert host.applied() == before


@pytest.mark.parametrize("given", ["asked", "applied", "applied by id", "spec"])
async def test_leave_is_given_with_the_question_as_it_is_applied_or_in_the_spec(
    host: Host, given: str
) -> None:
    plans, models = host.service.plans, host.service.models
    if given == "asked":
        await plans.apply((await plans.preview(PlanQuestion(allow_outage=True))).plan.id)
    elif given == "spec":
        for name in ("a", "b"):
            changed = dataclasses.replace(models.model(name).record.spec, allow_outage=True)
            await models.update(changed, None)
        await plans.apply()
    else:
        preview = await plans.preview()
        await plans.apply(preview.plan.id if given != "applied" else None, allow_outage=True)
    assert len(lost(host)) == 1
