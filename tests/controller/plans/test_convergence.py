"""The daemon reports the progress of plans: the applied one, earlier ones, and the next."""

import asyncio

import pytest

from partitiond.core.errors import NotFoundError
from partitiond.core.model.spec import Demand
from partitiond.core.replica.convergence import Convergence, PlanState
from partitiond.core.replica.states import ReplicaState
from partitiond.ports.actor import acting
from tests.controller.host import Host
from tests.controller.samples import spec
from tests.machine import WAIT_SECONDS, until


@pytest.fixture
async def host(host: Host) -> Host:
    """One model serves, and is measured on one core and on two."""
    host.measured("a")
    await host.register("a", auto=False, demand=Demand(req_per_s=0.5))
    await host.service.plans.apply()
    await host.serves("a")
    return host


async def to_the_end(host: Host, asked: str | None) -> list[Convergence]:
    async with asyncio.timeout(WAIT_SECONDS):
        return [now async for now in host.service.convergence.watch(asked)]


async def test_an_applied_plan_is_watched_until_it_runs(host: Host) -> None:
    await host.service.models.update(spec("a", auto=False, max_replicas=2, min_replicas=2), None)
    host.runner._ready_at_once = False
    preview = await host.service.plans.apply()
    waits = asyncio.create_task(to_the_end(host, preview.plan.id))
    await until(lambda: len(host.runner.running()) == 2)
    for engine in host.runner.engines.values():
        engine.ready.set()
    seen = await waits
    assert seen[0].state is PlanState.CONVERGING
    assert (seen[-1].state, seen[-1].serving) == (PlanState.CONVERGED, seen[-1].wanted)
    running = {engine.name for engine in host.service.parts.controller.engines if engine.live}
    assert len(running) == seen[-1].wanted
    assert [now.fraction for now in seen] == sorted(now.fraction for now in seen)


async def test_a_plan_has_not_converged_before_the_endpoint_routes_to_its_replicas(
    host: Host,
) -> None:
    await until(lambda: host.service.convergence.now().state is PlanState.CONVERGED)
    (engine,) = host.service.parts.controller.engines
    engine.shown = ReplicaState.STARTING
    assert host.service.convergence.now().state is PlanState.CONVERGING
    assert host.service.models.model("a").replicas_serving == 0
    engine.note_routed()
    assert host.service.convergence.now().state is PlanState.CONVERGED


async def test_a_plan_that_somebody_replaced_says_by_what_and_by_whom(host: Host) -> None:
    before = host.applied().id
    with acting("ada@laptop"):
        await host.service.models.remove("a")
    now = host.service.convergence.now(before)
    assert now.state is PlanState.SUPERSEDED
    assert now.replaced is not None
    assert (now.replaced.plan_id, now.replaced.actor) == (host.applied().id, "ada@laptop")
    assert not now.replaced.same
    await host.restart()
    now = host.service.convergence.now(before)
    assert now.replaced is not None
    assert now.replaced.plan_id == host.applied().id, "the next daemon knows it too"
    with pytest.raises(NotFoundError, match="plan-none is not applied"):
        host.service.convergence.watch("plan-none")


async def test_what_is_measured_first_keeps_nobody(host: Host) -> None:
    host.profiler.gate.clear()
    await host.register("b")
    await until(lambda: bool(host.profiler.requests))
    now = host.service.convergence.now()
    assert now.state is PlanState.CONVERGED
    assert now.ahead.measuring == host.service.jobs.jobs()[-1].id
    host.profiler.gate.set()
    await host.serves("b")


async def test_without_an_id_it_is_not_over_before_the_daemon_has_planned(host: Host) -> None:
    before = host.applied().id
    host.measured("b")
    await host.register("b", demand=Demand(req_per_s=0.5))
    seen = await to_the_end(host, None)
    assert seen[-1].plan_id != before
    assert host.serving("b") == 1
    assert (seen[-1].state, seen[-1].serving) == (PlanState.CONVERGED, 2)
