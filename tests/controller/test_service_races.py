"""Requests that race with a shutdown, a solve or a restart are handled."""

import asyncio

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
from tests.controller.fakes import FakeRunner, a_moment
from tests.controller.host import Host
from tests.controller.samples import spec
from tests.machine import until


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


def make_host() -> Host:
    here = Host(solve=Solver())
    here.measured("a", "b")
    return here


@pytest.fixture
def solver(host: Host) -> Solver:
    assert isinstance(host.solve, Solver)
    return host.solve


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


async def test_applying_solves_again_when_a_model_changed_meanwhile_and_gives_up_at_last(
    host: Host, solver: Solver
) -> None:
    await host.register("a", auto=False)

    async def another() -> None:
        await host.register(f"b{len(host.service.models.models())}", auto=False)

    solver.meanwhile = [another] * 30  # a plan may take two solves
    with pytest.raises(ConflictError, match="changed during"):
        await host.service.plans.apply()
    assert host.service.plans.applied() is None
    here = len(host.service.models.models())
    solver.meanwhile = [another]
    await host.service.plans.apply()
    applied = host.applied()
    known = {p.model for p in applied.placements} | {u.model for u in applied.unplaced}
    assert len(known) == here + 1


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


async def test_an_interrupted_profile_outside_the_chain_stays_as_it_is(host: Host) -> None:
    host.profiler.gate.clear()
    await host.register("a", auto=False)
    await host.service.models.profile("a", ProfileOptions(cores=1))
    await until(lambda: len(host.profiler.requests) == 1)
    await host.restart()
    await a_moment(500)  # many times what taking up a job needs
    assert [job.state for job in host.service.jobs.jobs()] == [JobState.FAILED]
    assert len(host.profiler.requests) == 1


class LostRunner(FakeRunner):
    """Cannot look for engines."""

    async def find(self) -> list[EngineHandle]:
        raise PartitiondError("the run folder cannot be read.")


@pytest.mark.parametrize("there_before", [False, True])
async def test_a_start_that_fails_leaves_no_endpoint_of_its_own(there_before: bool) -> None:
    host = Host(runner=LostRunner())
    host.proxy.refuse_stop = PartitiondError("the proxy is still alive after SIGKILL.")
    if there_before:
        await host.proxy.ensure_running()
    with pytest.raises(PartitiondError, match="run folder"):
        await host.service.daemon.start()
    assert host.proxy.alive is there_before
    await host.service.daemon.shutdown(stop_engines=False)
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
