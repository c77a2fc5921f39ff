"""The use cases work with a real store and planner, and everything else faked."""

import dataclasses

import pytest

from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import (
    ConflictError,
    EngineUnavailableError,
    InputError,
    ModelSourceError,
    NotFoundError,
    StartFailedError,
)
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.model.spec import Demand, EngineOptions, ModelSource, SourceKind
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Infeasible, Objective, Plan
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.profile.record import ProfileKind
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.store import open_store
from tests.controller.fakes import until
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, spec


async def test_a_model_of_a_group_that_the_host_lacks_is_accepted_and_warned_about(
    host: Host,
) -> None:
    await host.register("a", isolation_group="blue", auto=False)
    await host.register("b", auto=False)
    assert host.service.models.model("a").warning == "no group blue"
    assert [view.warning for view in host.service.models.models()] == ["no group blue", ""]


async def test_registering_goes_from_estimate_over_profile_to_serving(host: Host) -> None:
    """All models are measured before any starts."""
    host.profiler.gate.clear()
    await host.register("a", demand=Demand(req_per_s=1.0))
    assert {p.kind for p in host.store.profiles("a")} == {ProfileKind.ESTIMATED}
    await until(lambda: bool(host.profiler.requests))
    assert host.service.models.model("a").note.startswith("is being profiled")
    await host.register("b", demand=Demand(req_per_s=1.0))
    await host.register("by-hand", auto=False)
    host.profiler.gate.set()
    await host.serves("a", "b")
    measured = [(r.model.spec.name, len(r.cores)) for r in host.profiler.requests]
    assert sorted(measured) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    view = host.service.models.model("a")
    assert (view.profile_kind, view.provisional) == (ProfileKind.MEASURED, False)
    assert host.kinds().count("plan-applied") == 1
    assert {launch.model_name for launch in host.runner.launches} == {"a", "b"}
    assert host.service.readiness.problems() == {}
    text = await host.service.metrics.text()
    assert 'partitiond_replicas{model="a",state="serving"}' in text
    assert 'partitiond_jobs{state="succeeded"}' in text
    assert "partitiond_engine_starts_total" in text
    assert "partitiond_proxy_requests_total 7.0" in text


async def test_a_model_that_cannot_be_had_or_whose_name_is_taken_is_not_registered(
    host: Host,
) -> None:
    with pytest.raises(ModelSourceError):
        await host.register("a", source=ModelSource(SourceKind.FOLDER, "missing"))
    assert host.service.models.models() == []
    await host.register("a", auto=False)
    with pytest.raises(ConflictError):
        await host.register("a", auto=False)


async def test_a_failed_profile_starts_nothing_and_says_why(host: Host) -> None:
    host.profiler.breaks_with = StartFailedError("out of memory.", hint="Use less.")
    await host.register("a")
    await until(lambda: all(j.state is JobState.FAILED for j in host.jobs()))
    await host.serve("b")
    assert "out of memory" in host.service.models.model("a").note
    assert {launch.model_name for launch in host.runner.launches} == {"b"}


async def test_a_failed_profile_can_be_asked_for_again(host: Host) -> None:
    host.profiler.breaks_with = StartFailedError("out of memory.", hint="Use less.")
    await host.register("a")
    await until(lambda: all(j.state is JobState.FAILED for j in host.jobs()))
    host.profiler.breaks_with = None
    await host.service.models.profile("a", ProfileOptions(cores=1))
    await host.serves("a")


async def test_a_job_never_takes_what_serves_and_says_what_it_waits_for(host: Host) -> None:
    await host.serve("a")
    assert host.profiler.requests == [], "what was measured is not measured again"
    job = await host.service.models.profile("a", ProfileOptions())
    await until(lambda: "holds core" in host.service.jobs.job(job.id).progress.message)
    assert host.service.jobs.job(job.id).state is JobState.QUEUED
    assert host.runner.stopped == []


async def test_a_plan_for_replicas_of_a_failed_device_is_made_without_the_search() -> None:
    requests: list[PlanRequest] = []

    async def solve_and_note(request: PlanRequest) -> Plan | Infeasible:
        requests.append(request)
        return solve(request)

    async with serving(Host(solve=solve_and_note)) as host:
        await host.serve("a")
        assert all(request.may_search for request in requests)
        failed = dataclasses.replace(cpu(2), cordoned=True, health=DeviceHealth.FAILED)
        host.devices.become([failed])
        before = len(requests)
        await host.service.plans.preview()
        await until(lambda: len(requests) >= before + 2)
        # The one that a person asked for may wait; the daemon's own may not.
        assert {request.may_search for request in requests[before:]} == {True, False}


async def test_a_plan_that_would_move_running_replicas_waits_for_apply(host: Host) -> None:
    await host.serve("a")
    running = list(host.runner.running())
    host.measured("b")
    await host.register("b", demand=Demand(req_per_s=0.1))
    await until(lambda: "plan-waits" in host.kinds())
    assert host.runner.running() == running
    assert "partitiond apply" in host.service.models.model("b").note
    plans = host.service.plans
    waiting = plans.waiting()
    assert waiting is not None
    assert (await host.service.overview.overview()).waiting_plan_id == waiting.plan.id
    assert (await plans.preview(PlanQuestion(explain="b"))).plan.id == waiting.plan.id
    other = await plans.preview(PlanQuestion(objective=Objective.MAX_MIN))
    assert other.plan.id != waiting.plan.id
    assert plans.waiting() is not None  # what is asked otherwise changes nothing
    assert (await plans.apply(waiting.plan.id)).plan.id == waiting.plan.id
    assert plans.waiting() is None
    assert (await plans.preview()).plan.id == waiting.plan.id  # it is what is applied
    await host.serves("b")
    await until(lambda: host.serving("a") >= 1)


async def test_a_plan_is_applied_once_and_not_after_what_it_rests_on_has_changed(
    host: Host,
) -> None:
    host.measured("a")
    await host.register("a", auto=False)
    plans = host.service.plans
    preview = await plans.preview()
    applied = await plans.apply(preview.plan.id)
    await host.serves("a")
    again = await plans.apply(preview.plan.id)
    assert again.plan == applied.plan
    assert again.diff.is_empty
    assert (await plans.preview()).diff.is_empty
    preview = await plans.preview(PlanQuestion(objective=Objective.MAX_MIN))
    await host.service.models.update(spec("a", auto=False, demand=Demand(2.0)), 1)
    with pytest.raises(ConflictError, match="outdated"):
        await plans.apply(preview.plan.id)


async def test_removing_a_model_drains_and_stops_its_replicas(host: Host) -> None:
    await host.serve("a")
    await host.service.models.remove("a")
    await until(lambda: host.runner.running() == [] and host.service.overview.replicas() == ())
    assert host.service.models.models() == []
    assert host.store.profiles("a")  # what was measured is costly, so it stays


async def test_removing_a_model_cancels_its_jobs(host: Host) -> None:
    host.profiler.gate.clear()
    await host.register("a")
    await until(lambda: bool(host.profiler.requests))
    await host.service.models.remove("a")
    assert host.profiler.cancelled == 1
    assert {job.state for job in host.jobs()} == {JobState.CANCELLED}


async def test_a_change_on_an_old_version_is_refused(host: Host) -> None:
    await host.register("a", auto=False)
    changed = await host.service.models.update(spec("a", auto=False, min_replicas=1), 1)
    assert changed.version == 2
    with pytest.raises(ConflictError, match="version 2"):
        await host.service.models.update(spec("a", auto=False), 1)
    with pytest.raises(ConflictError):
        await host.service.models.remove("a", 1)


async def test_engine_options_stay_while_nobody_knows_what_replicas_were_started_with(
    host: Host,
) -> None:
    await host.serve("a")
    planned = host.applied()
    older = tuple(
        dataclasses.replace(p, candidate=dataclasses.replace(p.candidate, release=""))
        for p in planned.placements
    )
    host.store.set_plan(dataclasses.replace(planned, id="plan-older", placements=older))
    await host.restart()
    other = dataclasses.replace(spec("a"), engine=EngineOptions(dtype="float32"))
    with pytest.raises(ConflictError, match="engine options"):
        await host.service.models.update(other, None)


async def test_a_restart_adopts_everything_and_starts_nothing(host: Host) -> None:
    await host.serve("a")
    launches, proxy_starts = len(host.runner.launches), host.proxy.starts
    await host.restart()
    await host.serves("a")
    assert (len(host.runner.launches), host.proxy.starts) == (launches, proxy_starts)
    assert all(replica.adopted for replica in host.service.overview.replicas())


async def test_a_lost_store_stops_the_engines_it_no_longer_knows(host: Host) -> None:
    await host.serve("a")
    await host.service.daemon.shutdown(stop_engines=False)
    host.store.close()
    host.store = open_store(":memory:")
    host.service = host._make()
    await host.service.daemon.start()
    await until(lambda: host.runner.running() == [])


async def test_an_update_of_the_demand_goes_through_the_chain_again(host: Host) -> None:
    await host.serve("a", demand=Demand(req_per_s=0.1))
    before = host.service.models.model("a").replicas_planned
    await host.service.models.update(spec("a", min_replicas=before + 1), None)
    await until(lambda: host.service.models.model("a").replicas_planned > before)


async def test_a_profile_job_is_refused_where_it_could_never_run(host: Host) -> None:
    await host.register("a", auto=False)
    with pytest.raises(InputError, match="2 cores"):
        await host.service.models.profile("a", ProfileOptions(cores=64))
    with pytest.raises(NotFoundError, match="gpu-9"):
        await host.service.models.profile("a", ProfileOptions(device_id="gpu-9"))
    with pytest.raises(NotFoundError):
        await host.service.models.profile("unknown", ProfileOptions())


async def test_a_missing_engine_shows_only_where_every_model_needs_it(host: Host) -> None:
    host.engine_problem = EngineUnavailableError("there is no vLLM.")
    await until(lambda: host.service.readiness.problems() == {})
    await host.register("a", auto=False)
    await until(lambda: host.service.readiness.problems() == {"engine": "there is no vLLM."})
    await host.register("s", auto=False, engine_kind="simulated")
    assert host.service.readiness.problems() == {}


async def test_clients_hear_that_a_model_is_coming(host: Host) -> None:
    host.runner._ready_at_once = False
    host.measured("a")
    await host.register("a")
    await until(lambda: host.runner.running() != [])
    await until(lambda: host.proxy.table.models[0].availability is ModelAvailability.STARTING)
    await until(lambda: host.service.overview.replicas()[0].start_progress == "loading weights")
