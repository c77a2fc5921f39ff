"""When a plan is made and applied by itself."""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence

import pytest

from partitiond.controller.chain import Chain, held_back, left_out, may_be_provisional
from partitiond.controller.journal import Journal
from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Placement, diff_plans
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.spec import EngineOptions
from partitiond.ports import Job, JobState, PlanPreview, Progress, Store
from partitiond.store import open_store
from tests.controller.fakes import FakeClock, a_moment
from tests.controller.samples import NOW, measured_profile, placement, plan, record


def job(state: JobState, subject: str = "a") -> Job:
    return Job("job-1", "profile", subject, state, NOW, NOW, Progress("queued", ""))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], False),
        ([JobState.QUEUED], True),
        ([JobState.CANCELLED], True),
        ([JobState.FAILED], False),
        ([JobState.FAILED, JobState.QUEUED], True),
        ([JobState.CANCELLED, JobState.FAILED], True),
        ([JobState.RUNNING], False),
    ],
)
def test_a_model_is_served_from_its_estimate_only_where_measuring_must_wait(
    states: list[JobState], expected: bool
) -> None:
    assert may_be_provisional([job(state) for state in states]) is expected


def test_models_that_nobody_may_start_from_a_guess_are_held_back() -> None:
    known: dict[str, Sequence[Profile]] = {
        "measured": [measured_profile("measured")],
        "guessed": [measured_profile("guessed", kind=ProfileKind.ESTIMATED)],
    }
    records = [
        record("measured", auto=False),
        record("guessed"),
        record("waiting"),
        record("by-hand", auto=False),
        record("applied"),
        record("embedder", engine=EngineOptions(extra_args=("--runner", "pooling"))),
    ]
    applied = [dataclasses.replace(placement("applied-1"), model="applied")]
    jobs = [job(JobState.QUEUED, "waiting"), job(JobState.QUEUED, "by-hand")]
    found = held_back(records, lambda name: known.get(name, ()), jobs, applied)
    assert found == {"guessed"}


def test_models_outside_the_chain_are_never_started_by_it() -> None:
    records = [record("a"), record("by-hand", auto=False), record("applied", auto=False)]
    applied = [dataclasses.replace(placement("applied-1"), model="applied")]
    assert left_out(records, applied) == {"by-hand"}


class Situation:
    """A chain on what a test says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.busy = False
        self.live: tuple[Placement, ...] = ()
        self.applied: tuple[Placement, ...] = ()
        self.answer: PlanPreview | PartitiondError = preview()
        self.asked = 0
        self.outdated = False
        self.lost = False
        self.chain = Chain(
            journal=Journal(store, FakeClock()),
            ready=lambda: not self.busy,
            preview=self._preview,
            fresh=lambda: not self.outdated,
            apply=self._apply,
            touches_running=self._touches,
            current=lambda: self.applied,
        )

    async def _preview(self) -> PlanPreview:
        self.asked += 1
        if isinstance(self.answer, PartitiondError):
            raise self.answer
        return self.answer

    async def _apply(self, made: PlanPreview) -> bool:
        if not self.lost:
            self.applied = made.plan.placements
        return not self.lost

    def _touches(self, made: PlanPreview) -> bool:
        return not diff_plans(self.live, made.plan.placements).touches_nothing_running

    async def change(self) -> None:
        self.chain.changed()
        self.chain.consider()
        await a_moment()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events()]


def preview(*placements: Placement) -> PlanPreview:
    made = plan(*placements, plan_id="plan-7")
    return PlanPreview(made, diff_plans((), placements))


@pytest.fixture
def here() -> Iterator[Situation]:
    store = open_store(":memory:")
    yield Situation(store)
    store.close()


async def test_a_plan_that_only_starts_is_applied_by_itself(here: Situation) -> None:
    here.answer = preview(placement("a-1"))
    await here.change()
    assert here.applied == (placement("a-1"),)


async def test_a_plan_that_stops_what_runs_waits(here: Situation) -> None:
    here.live = here.applied = (placement("a-1", [0]),)
    here.answer = preview(placement("b-1", [0]))
    await here.change()
    assert here.applied == here.live
    assert (here.chain.waiting, here.kinds()) == ("plan-7", ["plan-waits"])
    here.chain.settled()
    assert (here.chain.waiting, here.chain.note) == ("", "")


async def test_while_a_job_runs_nothing_is_planned(here: Situation) -> None:
    here.busy = True
    await here.change()
    assert here.asked == 0
    here.busy = False
    here.chain.consider()
    await a_moment()
    assert here.asked == 1


async def test_a_job_that_starts_during_the_solve_puts_the_plan_off(here: Situation) -> None:
    here.answer = preview(placement("a-1"))
    here.chain.changed()
    here.chain.consider()
    here.busy = True
    await a_moment()
    assert not here.applied
    here.busy = False
    here.chain.consider()
    await a_moment()
    assert here.applied == (placement("a-1"),)


async def test_without_a_change_nothing_is_planned(here: Situation) -> None:
    here.chain.consider()
    await a_moment()
    assert here.asked == 0


async def test_the_same_plan_again_is_not_applied_again(here: Situation) -> None:
    here.applied = (placement("a-1"),)
    here.answer = preview(placement("a-1"))
    await here.change()
    assert here.kinds() == []


async def test_why_there_is_no_plan_is_said_once(here: Situation) -> None:
    here.answer = dataclasses.replace(preview(), infeasible=Infeasible(("too small.",), ()))
    await here.change()
    await here.change()
    assert here.asked == 2
    assert here.chain.note == "too small."
    assert len(here.kinds()) <= 2


async def test_a_planner_that_breaks_is_an_event_and_the_chain_goes_on(here: Situation) -> None:
    here.answer = PartitiondError("the planner's process ended.")
    await here.change()
    assert here.kinds() == ["plan-failed"]
    here.answer = preview(placement("a-1"))
    await here.change()
    assert here.applied == (placement("a-1"),)


async def test_closing_ends_a_plan_that_is_being_made(here: Situation) -> None:
    started = asyncio.Event()

    async def never() -> PlanPreview:
        started.set()
        await asyncio.Event().wait()
        return preview()

    async def taken(_: PlanPreview) -> bool:
        return True

    chain = Chain(
        journal=Journal(here.store, FakeClock()),
        ready=lambda: True,
        preview=never,
        fresh=lambda: True,
        apply=taken,
        touches_running=lambda _: False,
        current=tuple,
    )
    chain.changed()
    chain.consider()
    await started.wait()
    async with asyncio.timeout(60):
        await chain.close()


async def test_after_closing_nothing_is_planned_or_applied(here: Situation) -> None:
    here.answer = preview(placement("a-1"))
    await here.chain.close()
    await here.change()
    assert (here.asked, here.applied) == (0, ())


async def test_a_plan_of_what_is_no_longer_so_is_made_again(here: Situation) -> None:
    here.answer = preview(placement("a-1"))
    here.outdated = True
    await here.change()
    assert not here.applied
    assert here.kinds() == []
    here.outdated, here.lost = False, True
    here.chain.consider()
    await a_moment()
    assert not here.applied
    here.lost = False
    here.chain.consider()
    await a_moment()
    assert here.asked == 3
    assert list(here.applied) == [placement("a-1")]
