"""Plans on request: what counts as running, what is free, and when a plan is outdated."""

import dataclasses
from collections.abc import Iterator

import pytest

from partitiond.controller.planning import PlanDesk, PlanOptions, Situation, without_model
from partitiond.core.errors import ConflictError, NotFoundError, PartitiondError
from partitiond.core.plan import Infeasible, Plan
from partitiond.planner.api import solve
from partitiond.planner.instance import PlanRequest
from partitiond.ports import Store
from partitiond.store import open_store
from tests.controller.fakes import FakeClock
from tests.controller.samples import cpu, measured_profile, placement, plan, record


async def solved(request: PlanRequest) -> Plan | Infeasible:
    return solve(request)


@pytest.fixture
def store() -> Iterator[Store]:
    store = open_store(":memory:")
    store.add_model(record("a"))
    store.add_profile(measured_profile("a"))
    yield store
    store.close()


def desk(store: Store) -> PlanDesk:
    return PlanDesk(
        store=store,
        clock=FakeClock(),
        solve=solved,
        options=PlanOptions(time_limit_seconds=1.0),
    )


def situation(here: PlanDesk) -> Situation:
    return here.situation(devices=[cpu()], running=())


async def test_a_plan_starts_what_does_not_run(store: Store) -> None:
    here = desk(store)
    preview = await here.preview(situation(here), None, None)
    assert preview.infeasible is None
    assert {p.model for p in preview.diff.start} == {"a"}
    assert preview.diff.touches_nothing_running


async def test_a_plan_can_be_applied_by_id_until_something_changes(store: Store) -> None:
    here = desk(store)
    preview = await here.preview(situation(here), None, None)
    assert here.recall(preview.plan.id, situation(here), None) == preview
    store.add_profile(measured_profile("a", cores=2))
    with pytest.raises(ConflictError, match="outdated"):
        here.recall(preview.plan.id, situation(here), None)


async def test_a_plan_is_outdated_once_another_is_applied(store: Store) -> None:
    here = desk(store)
    preview = await here.preview(situation(here), None, None)
    with pytest.raises(ConflictError):
        here.recall(preview.plan.id, situation(here), plan(plan_id="plan-9"))


async def test_free_bytes_that_come_and_go_outdate_no_plan(store: Store) -> None:
    here = desk(store)
    preview = await here.preview(situation(here), None, None)
    other = dataclasses.replace(cpu(), free_bytes=cpu().free_bytes - 10**6)  # type: ignore[arg-type]
    later = here.situation(devices=[other], running=())
    assert here.recall(preview.plan.id, later, None) == preview


def test_a_plan_nobody_made_is_not_found(store: Store) -> None:
    here = desk(store)
    with pytest.raises(NotFoundError, match="plan-77"):
        here.recall("plan-77", situation(here), None)


async def test_a_plan_the_checker_refuses_is_never_shown(store: Store) -> None:
    async def wrong(request: PlanRequest) -> Plan | Infeasible:
        return plan(placement("a-1", [0]), placement("a-2", [0]))

    here = PlanDesk(store=store, clock=FakeClock(), solve=wrong, options=PlanOptions())
    with pytest.raises(PartitiondError, match="refused by its checker"):
        await here.preview(situation(here), None, None)


async def test_without_a_plan_the_reasons_are_the_answer_and_nothing_would_change(
    store: Store,
) -> None:
    async def never(request: PlanRequest) -> Plan | Infeasible:
        return Infeasible(("too small",), ("add memory",))

    here = PlanDesk(store=store, clock=FakeClock(), solve=never, options=PlanOptions())
    running = here.situation(devices=[cpu()], running=[placement("a-1")])
    preview = await here.preview(running, None, None)
    assert preview.infeasible is not None
    assert preview.diff.is_empty


def test_a_plan_without_a_model_leaves_the_others_where_they_are() -> None:
    both = plan(placement("a-1", [0]), placement("b-1", [1]))
    smaller = without_model(both, "a", "plan-2", "now")
    assert smaller.placements == (placement("b-1", [1]),)
    assert smaller.id == "plan-2"
