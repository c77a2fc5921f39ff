"""A plan without room for a serving model is applied only with permission."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from partitiond.core.errors import InputError
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.answers import PlanQuestion
from tests.controller.host import Host, serving
from tests.controller.samples import measured_profile, spec


def one(name: str, req_per_s: float, **changes: object) -> ModelSpec:
    return spec(name, demand=Demand(req_per_s=req_per_s), max_replicas=1, auto=False, **changes)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """Two cores, both taken, and a third model that asks for more than either."""
    async with serving(Host()) as here:
        for name in ("a", "b", "c"):
            here.store.add_profile(measured_profile(name, cores=1))
        for name in ("a", "b"):
            await here.service.models.register(one(name, 0.1))
        await here.service.plans.apply()
        await here.serves("a")
        await here.serves("b")
        await here.service.models.register(one("c", 1.0))
        yield here


def lost(host: Host) -> set[str]:
    plan = host.applied()
    return {"a", "b"} - {p.model for p in plan.wanted}


@pytest.mark.parametrize("by_id", [False, True])
async def test_it_is_refused_by_name_and_nothing_is_changed(host: Host, by_id: bool) -> None:
    before = host.service.plans.applied()
    preview = await host.service.plans.preview()
    with pytest.raises(InputError, match="without a replica") as raised:
        await host.service.plans.apply(preview.plan.id if by_id else None)
    (name,) = {"a", "b"} - {p.model for p in preview.plan.wanted}
    assert raised.value.facts["models"] == [name]
    assert "--allow-outage" in raised.value.hint
    assert host.service.plans.applied() == before


async def test_leave_is_given_with_the_question_or_as_it_is_applied(host: Host) -> None:
    asked = await host.service.plans.preview(PlanQuestion(allow_outage=True))
    await host.service.plans.apply(asked.plan.id)
    assert len(lost(host)) == 1


@pytest.mark.parametrize("by_id", [False, True])
async def test_leave_as_it_is_applied(host: Host, by_id: bool) -> None:
    preview = await host.service.plans.preview()
    await host.service.plans.apply(preview.plan.id if by_id else None, allow_outage=True)
    assert len(lost(host)) == 1


async def test_leave_in_the_models_own_spec(host: Host) -> None:
    for name in ("a", "b"):
        changed = dataclasses.replace(
            host.service.models.model(name).record.spec, allow_outage=True
        )
        await host.service.models.update(changed, None)
    await host.service.plans.apply()
    assert len(lost(host)) == 1


async def test_a_model_that_wants_nothing_any_more_is_no_loss(host: Host) -> None:
    await host.service.models.remove("a")
    await host.service.plans.apply()
    await host.serves("c")
    assert lost(host) == {"a"}
