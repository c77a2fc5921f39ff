"""Requests that race with a shutdown, a solve or a restart are handled."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from partitiond.core.errors import (
    ConflictError,
    NotReadyError,
    PartitiondError,
)
from partitiond.core.model.spec import Demand, EngineOptions
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.engine import EngineHandle
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.controller.fakes import FakeRunner, a_moment, until
from tests.controller.host import Host, serving
from tests.controller.samples import spec


class Solver:
    """The real planner; `meanwhile` happens during each solve, while there is one left."""

    def __init__(self) -> None:
        self.meanwhile: list[object] = []
        self.solves = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: PlanRequest) -> Plan | Infeasible:
        self.solves += 1
        await self.gate.wait()
        if self.meanwhile:
            happens = self.meanwhile.pop(0)
            assert callable(happens)
            await happens()
        return solve(request)


@pytest.fixture
async def solver() -> Solver:
    return Solver()


@pytest.fixture
async def host(solver: Solver) -> AsyncIterator[Host]:
    async with serving(Host(solve=solver)) as here:
        here.measured("a", "b")
        yield here
        solver.meanwhile.clear()


async def test_a_shutdown_with_a_running_job_keeps_the_applied_plan(host: Host) -> None:
    await host.register("a", demand=Demand(req_per_s=0.1), max_replicas=1)
    await host.serves("a")
    host.profiler.gate.clear()
    await host.register("c", demand=Demand(req_per_s=0.1))
    await until(lambda: bool(host.jobs()))
    applied = host.applied()
    host.proxy.counts = {"a-1": 1}  # it drains for a while, pass after pass
    ending = asyncio.create_task(host.service.daemon.shutdown(stop_engines=True))
    await until(lambda: any(route.draining for route in host.proxy.table.replicas))
    with pytest.raises(NotReadyError):
        await host.service.plans.apply()
    host.proxy.counts = {}
    await ending
    assert host.store.plan() == applied


async def test_applying_solves_again_when_a_model_changed_meanwhile(
    host: Host, solver: Solver
) -> None:
    await host.register("a", auto=False)

    async def another() -> None:
        await host.register("b", auto=False)

    solver.meanwhile = [another]
    preview = await host.service.plans.apply()
    assert {p.model for p in preview.plan.placements} == {"a", "b"}
    assert solver.solves in {2, 3}  # what is found out of b by itself may be one more change


async def test_applying_gives_up_when_things_never_rest(host: Host, solver: Solver) -> None:
    await host.register("a", auto=False)

    async def another() -> None:
        await host.register(f"b{len(solver.meanwhile)}", auto=False)

    solver.meanwhile = [another] * 10
    with pytest.raises(ConflictError, match="changed during"):
        await host.service.plans.apply()
    assert host.service.plans.applied() is None
    solver.meanwhile.clear()


async def test_the_chain_does_not_apply_a_plan_with_a_model_removed_during_the_solve(
    host: Host, solver: Solver
) -> None:
    solver.gate.clear()
    await host.register("a")
    await until(lambda: solver.solves == 1)
    await host.service.models.remove("a")
    solver.gate.set()
    await until(lambda: not host.service.parts.plans.chain.planning)
    assert host.service.plans.applied() is None
    assert host.runner.launches == []


async def test_engine_options_that_change_under_a_plan_applied_meanwhile_are_a_new_release(
    host: Host,
) -> None:
    await host.register("a", auto=False)
    host.resolver.gate.clear()
    other = spec("a", auto=False, engine=EngineOptions(dtype="float32"))
    updating = asyncio.create_task(host.service.models.update(other, None))
    await a_moment()
    before = (await host.service.plans.apply()).plan
    host.resolver.gate.set()
    assert (await updating).version == 2
    after = (await host.service.plans.apply()).plan
    releases = [{p.candidate.release for p in plan.wanted} for plan in (before, after)]
    assert all(releases)
    assert not releases[0] & releases[1], "the plan of before speaks of the former options"


async def test_room_that_a_removed_model_leaves_is_planned_anew(host: Host, solver: Solver) -> None:
    await host.register("a")
    await host.serves("a")
    before = solver.solves
    await host.service.models.remove("a")
    await until(lambda: solver.solves > before)


async def test_interrupted_profiles_are_taken_up_again_a_few_times(host: Host) -> None:
    host.profiler.gate.clear()
    await host.register("c")
    await until(lambda: len(host.profiler.requests) == 1)
    for again in (2, 3):
        await host.restart()
        await until(lambda count=again: len(host.profiler.requests) >= count)  # type: ignore[misc]
    host.profiler.gate.set()
    await host.serves("c")


async def test_an_interrupted_profile_outside_the_chain_stays_as_it_is(host: Host) -> None:
    host.profiler.gate.clear()
    await host.register("a", auto=False)
    await host.service.models.profile("a", ProfileOptions(cores=1))
    await until(lambda: len(host.profiler.requests) == 1)
    await host.restart()
    await a_moment(500)  # many times what taking up a job needs
    assert [job.state for job in host.service.jobs.jobs()] == [JobState.FAILED]
    assert len(host.profiler.requests) == 1


async def test_a_restart_goes_on_planning_what_was_not_planned_yet(
    host: Host, solver: Solver
) -> None:
    solver.gate.clear()
    await host.register("a")
    await until(lambda: solver.solves == 1)
    await host.restart()
    solver.gate.set()
    await host.serves("a")


class LostRunner(FakeRunner):
    """Cannot look for engines."""

    async def find(self) -> list[EngineHandle]:
        raise PartitiondError("the run folder cannot be read.")


@pytest.mark.parametrize("there_before", [False, True])
async def test_a_start_that_fails_leaves_no_endpoint_of_its_own(there_before: bool) -> None:
    host = Host(runner=LostRunner())
    if there_before:
        await host.proxy.ensure_running()
    with pytest.raises(PartitiondError, match="run folder"):
        await host.service.daemon.start()
    await host.service.daemon.shutdown(stop_engines=False)
    assert host.proxy.alive is there_before
    host.store.close()


async def removing(host: Host, version: int | None = None) -> "asyncio.Task[None]":
    """A removal that waits for the engine of the model's profile job to end."""
    host.profiler.gate.clear()
    host.profiler.stops.clear()
    await host.register("a", auto=False)
    await host.service.models.profile("a", ProfileOptions(cores=1))
    await until(lambda: len(host.profiler.requests) == 1)
    task = asyncio.create_task(host.service.models.remove("a", version))
    await until(lambda: host.profiler.cancelled == 1)
    return task


async def test_a_profile_asked_for_while_its_model_is_removed_goes_with_it(host: Host) -> None:
    task = await removing(host)
    late = [await host.service.models.profile("a", ProfileOptions(cores=cores)) for cores in (1, 2)]
    host.profiler.stops.set()
    await task
    assert {host.service.jobs.job(job.id).state for job in late} == {JobState.CANCELLED}
    await a_moment()
    assert host.service.parts.jobs.leases() == ()


async def test_a_model_that_changes_while_it_is_removed_stays(host: Host) -> None:
    task = await removing(host, version=1)
    await host.service.models.update(spec("a", auto=False, aliases=("b",)), None)
    host.profiler.stops.set()
    with pytest.raises(ConflictError, match="version 2, not 1"):
        await task
    assert host.service.models.model("a").record.version == 2
