"""The use cases work with a real store and planner, and everything else faked."""

import dataclasses

import pytest

from partitiond.core.errors import (
    ConflictError,
    DeviceError,
    EngineUnavailableError,
    ModelSourceError,
    StartFailedError,
)
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.model.spec import Demand, EngineOptions, ModelSource, SourceKind
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Infeasible, Objective, Plan
from partitiond.core.profile.jobs import FIRST_LOOK_SECONDS, IN_FULL, JobState, ProfileOptions
from partitiond.core.profile.record import ProfileKind
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, spec
from tests.devices.fake import FakeDevices, fake_gpus
from tests.machine import until


async def test_registering_goes_from_estimate_over_profile_to_serving(host: Host) -> None:
    """All models are looked at before any starts; what that leaves open is measured after."""
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
    assert sorted(measured[:2]) == [("a", 1), ("b", 1)]
    looks = host.profiler.requests[:2]
    assert {(r.time_limit_seconds, r.confirm_memory) for r in looks} == {
        (FIRST_LOOK_SECONDS, False)
    }
    later = [(dict(j.params)["cores"], j.reason) for j in host.jobs() if j.reason == IN_FULL]
    assert later == [("2", IN_FULL)] * 2
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
    await host.register("a", auto=False, isolation_group="blue")  # which this host lacks
    assert host.service.models.model("a").warning == "no group blue"
    with pytest.raises(ConflictError):
        await host.register("a", auto=False)


async def test_a_failed_profile_starts_nothing_says_why_and_can_be_asked_for_again(
    host: Host,
) -> None:
    host.profiler.breaks_with = StartFailedError("out of memory.", hint="Use less.")
    await host.register("a")
    await until(lambda: all(j.state is JobState.FAILED for j in host.jobs()))
    host.measured("b", cores=(1,))
    await host.register("b", max_replicas=1)
    await host.serves("b")
    assert "out of memory" in host.service.models.model("a").note
    assert {launch.model_name for launch in host.runner.launches} == {"b"}
    host.profiler.breaks_with = None
    await host.service.models.profile("a", ProfileOptions(cores=1))
    await host.serves("a")


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
    assert (await plans.apply(waiting.plan.id)).plan.id == waiting.plan.id  # as often as asked
    assert (await plans.preview()).plan.id == waiting.plan.id  # it is what is applied
    await host.serves("b")
    await until(lambda: host.serving("a") >= 1)


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


async def test_an_update_of_the_demand_goes_through_the_chain_again(host: Host) -> None:
    await host.serve("a", demand=Demand(req_per_s=0.1))
    before = host.service.models.model("a").replicas_planned
    await host.service.models.update(spec("a", min_replicas=before + 1), None)
    await until(lambda: host.service.models.model("a").replicas_planned > before)


async def test_a_missing_engine_shows_only_where_every_model_needs_it(host: Host) -> None:
    host.engine_problem = EngineUnavailableError("there is no vLLM.")
    await until(lambda: host.service.readiness.problems() == {})
    await host.register("a", auto=False)
    await until(lambda: host.service.readiness.problems() == {"engine": "there is no vLLM."})
    await host.register("s", auto=False, engine_kind="simulated")
    assert host.service.readiness.problems() == {}


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_was_registered_before_there_was_a_device_is_measured_and_started(
    refuses: bool,
) -> None:
    """The service starts before the driver, whose first looks find nothing, or fail."""
    here = Host(devices=FakeDevices([]))
    if refuses:
        here.devices.refuse()
    async with serving(here) as host:
        await host.passes(lambda: host.service.parts.devices.looked)
        await host.register("a", demand=Demand(req_per_s=0.1))
        await host.register("by-hand", auto=False)
        await until(lambda: "plan-infeasible" in host.kinds())
        host.devices.become([cpu(2)])
        await host.passes(lambda: bool(host.profiler.requests))
        await host.serves("a")
        assert host.service.models.model("a").profile_kind == "measured"
        measured = len(host.profiler.requests)
        # A kind that comes to others is measured on as well; one that comes back is not.
        await host.passes(lambda: not host.service.jobs.awaited)
        host.devices.become([cpu(2), *fake_gpus("a100-80gb", 1, cores=range(12))])
        await host.passes(lambda: len(host.profiler.requests) > measured)
        assert {r.model.spec.name for r in host.profiler.requests} == {"a"}


async def test_what_runs_is_kept_though_something_else_has_the_endpoints_port(host: Host) -> None:
    """Only a daemon that never served is refused for it."""
    taken = DeviceError("Port 8000 on 127.0.0.1 is in use by another program.")
    fresh = Host()
    fresh.proxy.refuse_start = taken
    with pytest.raises(DeviceError):
        await fresh.service.daemon.start()
    await host.serve("a")
    host.proxy.die()
    host.proxy.refuse_start = taken
    await host.restart()
    assert host.service.readiness.problems()["proxy"] == str(taken)
    assert "proxy-unreachable" in host.kinds()
    launched = len(host.runner.launches)
    host.runner.die(host.runner.running()[0])
    await host.passes(lambda: len(host.runner.launches) > launched)
    host.proxy.refuse_start = None
    await host.passes(lambda: host.service.readiness.problems() == {})
