"""Aliases, default parameters and limits of a model reach the proxy, not plans or engines."""

import asyncio

import pytest

from partitiond.core.dispatch.routing import ModelRoute, RequestLimits
from partitiond.core.errors import ConflictError
from tests.controller.host import Host
from tests.controller.samples import spec
from tests.machine import until


def route(host: Host, name: str) -> ModelRoute:
    return next(model for model in host.proxy.table.models if model.name == name)


async def test_a_new_alias_restarts_nothing_and_is_no_reason_to_plan(host: Host) -> None:
    await host.serve("a")
    plan, launches = host.service.plans.applied(), len(host.runner.launches)
    engines = {(r.replica_id, r.pid) for r in host.service.overview.replicas()}
    preview = await host.service.plans.preview()
    changed = spec(
        "a",
        aliases=("org/A",),
        request_defaults={"temperature": 0},
        request_limits=RequestLimits(max_output_tokens=16),
    )
    record = await host.service.models.update(changed, 1)
    assert record.version == 2
    with pytest.raises(ConflictError, match="version 2"):
        await host.service.models.update(changed, 1)  # made from an older one
    await until(lambda: route(host, "a").aliases == ("org/A",))
    assert route(host, "a").defaults_json == '{"temperature":0}'
    assert route(host, "a").limits == RequestLimits(max_output_tokens=16)
    await host.serves("a")
    assert host.service.plans.applied() == plan
    assert {(r.replica_id, r.pid) for r in host.service.overview.replicas()} == engines
    assert (len(host.runner.launches), host.runner.stopped) == (launches, [])
    # A plan that was made before is still good.
    await host.service.plans.apply(preview.plan.id)


async def test_an_alias_needs_no_model_files(host: Host) -> None:
    """The source may be out of reach just now; names are our own."""
    await host.register("a", auto=False)
    host.resolver.gate.clear()
    await host.service.models.update(spec("a", auto=False, aliases=("org/A",)), None)
    assert host.service.models.model("a").record.spec.aliases == ("org/A",)
    host.resolver.gate.set()


async def test_no_two_models_share_a_name_or_alias(host: Host) -> None:
    await host.register("a", auto=False, aliases=("shared",))
    await host.register("b", auto=False)
    for taken in ("a", "shared"):
        with pytest.raises(ConflictError, match=f"the name {taken} "):
            await host.service.models.update(spec("b", auto=False, aliases=(taken,)), None)
        with pytest.raises(ConflictError, match=f"the name {taken} "):
            await host.register("c", auto=False, aliases=("own", taken))
    with pytest.raises(ConflictError, match="the name shared is an alias of a"):
        await host.register("shared", auto=False)
    # Given back, it is free.
    await host.service.models.update(spec("a", auto=False), None)
    await host.service.models.update(spec("b", auto=False, aliases=("shared",)), None)
    assert host.service.models.model("b").record.spec.aliases == ("shared",)


async def test_a_name_that_is_taken_while_another_resolves_is_refused(host: Host) -> None:
    host.resolver.gate.clear()
    both = [
        asyncio.create_task(host.service.models.register(spec(name, auto=False, aliases=("same",))))
        for name in ("a", "b")
    ]
    await asyncio.sleep(0)
    host.resolver.gate.set()
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(isinstance(result, ConflictError) for result in results) == [False, True]
