"""Plans on request know what runs and what is free, and become outdated at the right time."""

import dataclasses

import pytest

from partitiond.controller.plans.planning import (
    PlanMaker,
    PlanOptions,
    planning_devices,
    without_model,
)
from partitiond.controller.plans.situation import Situation
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.start_times import StartTimes
from partitiond.core.errors import ConflictError, InputError, NotFoundError, PartitiondError
from partitiond.core.hardware.kinds import silent_device
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Infeasible, Placement, Plan
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind, profile_failed
from partitiond.core.units import GIB, Bytes
from partitiond.models.catalog import entry_of
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import OnProgress
from partitiond.store import Store
from tests.controller.fakes import POLICY, FakeClock, FakeRunner, plan_maker
from tests.controller.samples import cpu, measured_profile, placement, plan, record
from tests.devices.fake import fake_gpus


@pytest.fixture
def store(store: Store) -> Store:
    store.add_model(record("a"))
    store.add_profile(measured_profile("a"))
    return store


async def solving(request: PlanRequest, on_progress: OnProgress | None = None) -> Plan | Infeasible:
    return solve(request, on_progress)


def desk(store: Store) -> PlanMaker:
    return plan_maker(store, solving, PlanOptions(time_limit_seconds=1.0))


def situation(here: PlanMaker) -> Situation:
    return here.situation(devices=[cpu()], running=())


async def test_a_plan_starts_what_does_not_run_and_is_applied_by_id_until_something_changes(
    store: Store,
) -> None:
    here = desk(store)
    preview = await here.preview(situation(here), None, None)
    assert preview.infeasible is None
    assert {p.model for p in preview.diff.start} == {"a"}
    assert preview.diff.touches_nothing_running
    other = dataclasses.replace(cpu(), free_bytes=cpu().free_bytes - 10**6)  # type: ignore[arg-type]
    for same in (situation(here), here.situation(devices=[other], running=())):
        assert here.recall(preview.plan.id, same, None) == preview
    with pytest.raises(ConflictError, match=r"since it was made: the applied plan\. Make"):
        here.recall(preview.plan.id, situation(here), plan(plan_id="plan-9"))
    store.add_profile(measured_profile("a", cores=2))
    with pytest.raises(
        ConflictError, match=r"outdated\. Changed since it was made: profiles of a\. "
    ):
        here.recall(preview.plan.id, situation(here), None)


def test_what_keeps_a_model_from_every_plan_outdates_one_and_a_failed_profile_does_not(
    store: Store,
) -> None:
    here = desk(store)
    failed = {"a": profile_failed("a", "job-1", "broke", "")}
    absent = {"a": Obstacle("a", ObstacleKind.ENGINE_ABSENT, "none.", "", "")}
    elsewhere = {"a": dataclasses.replace(absent["a"], places=(("", "h100"),))}
    asked = here.situation(devices=[cpu()], running=(), warnings=failed)
    by_itself, nowhere, still_here = (
        here.situation(devices=[cpu()], running=(), obstacles=obstacles)
        for obstacles in (failed, absent, elsewhere)
    )
    assert [len(s.planned) for s in (asked, by_itself, nowhere, still_here)] == [1, 0, 0, 1]
    of_it = [s.basis("plan-1") for s in (asked, by_itself, nowhere, still_here)]
    assert [print_ == of_it[0] for print_ in of_it] == [True, True, False, True]


@pytest.mark.parametrize(
    "question",
    [
        PlanQuestion(explain="a"),
        PlanQuestion(what_if=("+1 l4-24gb", "objective max-min; demand a*2")),
    ],
    ids=("explain", "what-if"),
)
async def test_a_question_about_a_model_that_is_in_no_plan_is_answered_with_the_reason(
    store: Store, question: PlanQuestion
) -> None:
    here = desk(store)
    absent = {"a": Obstacle("a", ObstacleKind.ENGINE_ABSENT, "no engine.", "Get one.", "")}
    obstructed = here.situation(devices=[cpu()], running=(), obstacles=absent)
    with pytest.raises(InputError, match=r"^a cannot run here: no engine\.") as caught:
        await here.preview(obstructed, None, question)
    assert caught.value.hint == "Get one."
    asleep = here.situation(devices=[cpu()], running=(), asleep={"a": 1})
    with pytest.raises(InputError, match="a sleeps"):
        await here.preview(asleep, None, question)


async def test_a_plan_nobody_made_is_not_found_and_the_others_are_named(store: Store) -> None:
    here = desk(store)
    with pytest.raises(NotFoundError, match="plan-77"):
        here.recall("plan-77", situation(here), None)
    made = await here.preview(situation(here), None)
    with pytest.raises(NotFoundError) as caught:
        here.recall("plan-", situation(here), None)
    assert caught.value.facts["plans"] == [made.plan.id]


async def test_a_plan_the_checker_refuses_is_never_shown_and_without_one_nothing_would_change(
    store: Store,
) -> None:
    async def solve(request: PlanRequest) -> Plan | Infeasible:
        return answers.pop()

    answers: list[Plan | Infeasible] = [
        Infeasible(("too small",), ("add memory",)),
        plan(placement("a-1", [0]), placement("a-2", [0])),
    ]
    here = plan_maker(store, solve=solve)
    with pytest.raises(PartitiondError, match="refused by its checker"):
        await here.preview(situation(here), None, None)
    running = here.situation(devices=[cpu()], running=[placement("a-1")])
    preview = await here.preview(running, None, None)
    assert preview.infeasible is not None
    assert preview.diff.is_empty


def test_a_plan_without_a_model_leaves_the_others_where_they_are() -> None:
    both = plan(placement("a-1", [0]), placement("b-1", [1]))
    smaller = without_model(both, "a", "plan-2", "now")
    assert smaller.placements == (placement("b-1", [1]),)
    assert smaller.id == "plan-2"


def engine(of: Placement) -> Engine:
    """An engine that runs."""
    return Engine(
        of.replica_id,
        of,
        runner=FakeRunner(ready_at_once=True),
        clock=FakeClock(),
        policy=POLICY,
        note=lambda *_: None,
        wake=lambda: None,
    )


def test_what_our_own_engines_use_is_free_to_plan_with() -> None:
    host = dataclasses.replace(cpu(), free_bytes=Bytes(2 * GIB))
    (gpu,) = fake_gpus("l4-24gb")
    free = Bytes(12 * GIB)  # its driver tells ours apart
    gpu = dataclasses.replace(gpu, free_bytes=free, host=host.host)
    share = MemoryShare(gpu.id, Bytes(8 * GIB))
    on_gpu = dataclasses.replace(placement("b-1"), device_id=gpu.id, partition=share)
    engines = [(engine(placement("a-1")), 3 * GIB), (engine(on_gpu), GIB)]
    other = dataclasses.replace(host, id="cpu-there", host="there")
    planned, planned_gpu, there = planning_devices([host, gpu, other], engines)
    assert planned.free_bytes == 6 * GIB
    assert there.free_bytes == 2 * GIB
    assert planned_gpu.free_bytes == 12 * GIB
    gone = dataclasses.replace(placement("a-1"), device_id="cpu-gone")  # may be on any host
    everywhere = planning_devices([host, other], [(engine(gone), GIB)])
    assert [device.free_bytes for device in everywhere] == [3 * GIB, 3 * GIB]


def test_a_device_of_a_silent_host_keeps_what_may_run_there() -> None:
    (gpu,) = (silent_device(gpu, "silent") for gpu in fake_gpus("l4-24gb"))
    share = MemoryShare(gpu.id, Bytes(8 * GIB))
    there = dataclasses.replace(placement("b-1"), device_id=gpu.id, partition=share)
    known = [(engine(there), GIB)]
    for planned in (
        planning_devices([gpu], [], [there]),
        planning_devices([gpu], known),
        planning_devices([gpu], known, [there]),
    ):
        assert (planned[0].cordoned, planned[0].max_replicas) == (False, 1)
    assert planning_devices([gpu], [])[0].cordoned


async def test_what_if_is_answered_beside_the_plan_and_only_the_plan_can_be_applied(
    store: Store,
) -> None:
    here = desk(store)
    question = PlanQuestion(what_if=("demand a=1000/s", "objective max-goodput"))
    told: list[PlanProgress] = []
    preview = await here.preview(situation(here), None, question, told.append)
    assert {progress.title for progress in told} == {"the plan", *question.what_if}
    assert {progress.steps for progress in told} == {3}
    changes = [one.change for one in preview.answers.what_if]
    assert changes == ["demand a=1000/s", "objective max-goodput"]
    for one in preview.answers.what_if:
        assert one.plan is not None
        assert one.plan.id.startswith(f"{preview.plan.id}.")
        with pytest.raises(NotFoundError):
            here.recall(one.plan.id, situation(here), None)
    assert here.recall(preview.plan.id, situation(here), None) == preview


async def test_starts_that_were_seen_say_how_long_it_takes(store: Store) -> None:
    StartTimes(store).note("a", 12.0, FakeClock())
    here = desk(store)
    takes = (await here.preview(situation(here), None)).answers.diff
    assert takes is not None
    assert {(step.seconds, step.measured) for step in takes.steps} == {(12.0, True)}


async def test_a_kind_of_device_that_is_not_here_is_planned_from_estimates(store: Store) -> None:
    async def architecture_of(spec: ModelSpec) -> Architecture:
        entry = entry_of(ModelSource(SourceKind.CONFIG, "opt-125m"))
        assert entry is not None
        return entry.architecture

    here = plan_maker(
        store, options=PlanOptions(time_limit_seconds=1.0), architecture_of=architecture_of
    )
    question = PlanQuestion(what_if=("+1 l4-24gb; demand a=30/s",))
    (one,) = (await here.preview(situation(here), None, question)).answers.what_if
    assert one.plan is not None
    assert any(p.candidate.hardware == "l4-24gb" for p in one.plan.placements)


async def test_a_change_without_room_beside_what_runs_needs_permission(store: Store) -> None:
    """What runs holds both cores, and what was measured since needs other engines."""
    here = desk(store)
    now = here.situation(devices=[cpu()], running=[placement("a-1", cores=(0, 1), batch=3)])
    kept = await here.preview(now, None)
    assert kept.diff.is_empty
    assert [one.model for one in kept.plan.held_back] == ["a"]
    allowed = await here.preview(now, None, PlanQuestion(allow_outage=True))
    assert allowed.answers.diff is not None
    assert [outage.model for outage in allowed.answers.diff.outages] == ["a"]
    assert {step.load_bytes for step in allowed.answers.diff.steps} <= {0, 100 * 2**20}
    permitted = tuple(
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, allow_outage=True))
        for r in now.records
    )
    preview = await here.preview(dataclasses.replace(now, records=permitted), None)
    assert not preview.plan.held_back
    assert not preview.diff.is_empty
