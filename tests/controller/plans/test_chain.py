"""Plans are made and applied automatically in the right situations."""

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.plans.chain import (
    Chain,
    changes_nothing,
    held_back,
    left_out,
    may_be_provisional,
    not_yet_planned,
    retry_seconds,
    woken_without_place,
)
from partitiond.controller.plans.planning import places_the_same
from partitiond.core.errors import PartitiondError
from partitiond.core.plan.record import Infeasible, Placement, Unplaced, diff_plans
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.views.preview import PlanPreview
from partitiond.store import Store
from tests.controller.fakes import FakeClock, a_moment
from tests.controller.samples import NOW, measured_profile, placement, plan, record
from tests.machine import WAIT_SECONDS


def job(state: JobState, subject: str = "a") -> Job:
    return Job("job-1", "profile", subject, state, NOW, NOW, Progress("queued", ""))


def test_a_model_is_served_from_its_estimate_only_where_measuring_must_wait() -> None:
    queued, cancelled, failed = JobState.QUEUED, JobState.CANCELLED, JobState.FAILED
    waits: tuple[list[JobState], ...] = (
        [queued], [cancelled], [failed, queued], [cancelled, failed]
    )  # fmt: skip
    for states in waits:
        assert may_be_provisional([job(state) for state in states])
    for states in ([], [failed], [JobState.RUNNING]):
        assert not may_be_provisional([job(state) for state in states])


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
    ]
    jobs = [job(JobState.QUEUED, "waiting"), job(JobState.QUEUED, "by-hand")]
    found = held_back(records, lambda name: known.get(name, ()), jobs, {"applied"})
    assert found == {"guessed"}
    # Those outside the chain it never starts, measured or not.
    assert left_out([record("a"), *records], {"applied"}) == {"measured", "by-hand"}
    assert left_out(records, {"applied", "by-hand"}) == {"measured"}


class Situation:
    """A chain on what a test says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock()
        self.busy = self.pressing = False
        self.live: tuple[Placement, ...] = ()
        self.applied: tuple[Placement, ...] = ()
        self.answer: PlanPreview | Exception = preview()
        self.asked = 0
        self.outdated = False
        self.gone = ""
        self.chain = Chain(
            journal=Journal(store, FakeClock()),
            clock=self.clock,
            ready=lambda: not self.busy,
            pressing=lambda: self.pressing,
            preview=self._preview,
            fresh=lambda: not self.outdated,
            lasts=lambda plan_id: plan_id != self.gone,
            apply=self._apply,
            touches_running=self._touches,
            current=lambda: plan(*self.applied),
        )

    async def _preview(self) -> PlanPreview:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _apply(self, made: PlanPreview) -> None:
        self.applied = made.plan.placements

    def _touches(self, made: PlanPreview) -> bool:
        return not diff_plans(self.live, made.plan.placements).touches_nothing_running

    async def consider(self, later_seconds: float = 0.0) -> None:
        self.clock.now += later_seconds
        self.chain.consider()
        await a_moment()

    async def change(self) -> None:
        self.chain.changed()
        await self.consider()

    def urgent(self) -> bool:
        return self.chain.urgent

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events()]


def preview(*placements: Placement, plan_id: str = "plan-7") -> PlanPreview:
    made = plan(*placements, plan_id=plan_id)
    return PlanPreview(made, diff_plans((), placements))


@pytest.fixture
def here(store: Store) -> Situation:
    return Situation(store)


async def test_a_plan_that_only_starts_is_applied_once_by_itself(here: Situation) -> None:
    await here.consider()
    assert here.asked == 0, "nothing has changed"
    here.answer = preview(placement("a-1"))
    for _ in range(2):
        await here.change()
        assert here.applied == (placement("a-1"),)
    assert here.kinds() == []


async def waits(here: Situation) -> None:
    """plan-7 waits, since it stops what runs."""
    here.live = here.applied = (placement("a-1", [0]),)
    here.answer = preview(placement("b-1", [0]))
    await here.change()
    assert (here.chain.waiting, here.applied) == ("plan-7", here.live)


def test_a_plan_that_wakes_a_model_where_it_slept_is_not_the_applied_one() -> None:
    here, there = placement("a-1"), placement("b-1")
    both, one_asleep = plan(here, there), dataclasses.replace(plan(here), asleep=(there,))
    assert changes_nothing(one_asleep, both)
    assert not changes_nothing(both, one_asleep)
    assert places_the_same(both, one_asleep)
    assert not places_the_same(one_asleep, both), "or `apply` with its number would do nothing"


async def test_a_plan_that_waits_is_told_of_once(here: Situation) -> None:
    await waits(here)
    await here.change()
    assert (here.asked, here.chain.waiting, here.kinds()) == (2, "plan-7", ["plan-waits"])
    here.chain.settled()
    assert (here.chain.waiting, here.chain.note) == ("", "")


async def test_a_plan_that_cannot_be_applied_any_more_waits_no_longer(here: Situation) -> None:
    await waits(here)
    here.busy = True  # no other plan is made for a while
    here.chain.changed()
    here.chain.consider()
    assert here.chain.waiting == "plan-7"  # what changed is nothing that it rests on
    here.gone = "plan-7"
    here.chain.consider()
    assert here.chain.waiting == "plan-7"  # nobody told of a change
    here.chain.changed()
    here.chain.consider()
    assert (here.chain.waiting, here.chain.note) == ("", "")
    assert here.kinds() == ["plan-waits", "plan-withdrawn"]


async def test_a_plan_that_is_needed_no_more_waits_no_longer(here: Situation) -> None:
    await waits(here)
    here.answer = preview(*here.applied, plan_id="plan-8")
    await here.change()
    assert (here.chain.waiting, here.chain.note, here.applied) == ("", "", here.live)


async def test_a_plan_that_a_person_asked_for_takes_the_place_of_the_one_that_waits(
    here: Situation,
) -> None:
    here.live = here.applied = (placement("a-1", [0]),)
    here.chain.compare(preview(placement("b-1", [0])))
    assert here.chain.waiting == ""  # it waits for nobody: a person looks at it
    await waits(here)
    here.chain.compare(dataclasses.replace(preview(), infeasible=Infeasible(("too small.",), ())))
    assert here.chain.waiting == "plan-7"
    here.chain.compare(preview(placement("c-1", [0]), plan_id="plan-8"))
    assert here.chain.waiting == "plan-8"
    here.chain.compare(preview(*here.live, plan_id="plan-9"))
    assert here.chain.waiting == ""
    assert here.kinds() == ["plan-waits", "plan-waits", "plan-withdrawn"]


async def test_while_a_job_runs_nothing_is_planned_or_applied(here: Situation) -> None:
    here.answer = preview(placement("a-1"))
    here.busy = True
    await here.change()
    assert here.asked == 0
    here.busy = False
    here.chain.consider()
    here.busy = True  # a job that starts during the solve puts the plan off
    await a_moment()
    assert (here.asked, here.applied) == (1, ())
    here.busy = False
    await here.consider()
    assert here.applied == (placement("a-1"),)


@pytest.mark.parametrize(
    "broke", [PartitiondError("the planner's process ended."), ZeroDivisionError("a defect")]
)
async def test_a_planner_that_breaks_is_an_event_and_the_chain_goes_on(
    here: Situation, broke: Exception
) -> None:
    here.answer = dataclasses.replace(preview(), infeasible=Infeasible(("too small.",), ()))
    for asked in (1, 2):
        await here.change()
        assert (here.asked, here.chain.note) == (asked, "too small.")
    assert here.kinds() == ["plan-infeasible"], "why there is no plan is said once"
    here.answer = broke
    await here.change()
    assert here.kinds() == ["plan-infeasible", "plan-failed"]
    assert here.chain.problem == here.chain.note != ""
    here.answer = preview(placement("a-1"))
    await here.change()
    assert (here.asked, here.applied) == (3, ())  # what changes meanwhile does not hurry it
    await here.consider(retry_seconds(1))
    assert here.applied == (placement("a-1"),)
    assert here.chain.problem == ""


async def test_a_plan_that_breaks_while_it_is_applied_is_made_again(here: Situation) -> None:
    apply = here.chain._apply

    def full(made: PlanPreview) -> None:
        raise OSError("no space left on device")

    here.chain._apply = full
    here.answer = preview(placement("a-1"))
    await here.change()
    assert "no space left on device" in here.chain.problem
    for failures in (1, 2, 3):
        await here.consider(retry_seconds(failures) - 0.5)
        assert here.asked == failures
        await here.consider(0.5)
        assert here.asked == failures + 1
    assert here.kinds() == ["plan-failed"]  # the same words are said once
    here.chain._apply = apply
    await here.consider(retry_seconds(4))
    assert list(here.applied) == [placement("a-1")]
    here.answer = OSError("again")
    await here.change()
    await here.consider(retry_seconds(1))
    assert here.asked == 7  # a plan that was made ends the row
    assert [retry_seconds(n) for n in (0, 1, 2, 3, 6, 7, 8)] == [0, 1, 2, 4, 32, 60, 60]
    assert retry_seconds(10_000) == 60


async def test_for_an_under_served_model_a_plan_is_made_while_a_job_runs(here: Situation) -> None:
    here.busy = here.pressing = True
    here.answer = preview(placement("a-1"))
    here.chain.changed()
    assert here.urgent()
    await here.consider()
    assert here.applied == (placement("a-1"),)
    assert not here.urgent()
    await here.consider()
    assert here.asked == 1  # once for each change, whether it helped or not
    assert here.chain.planning  # what it left out is planned after the job
    await here.change()
    assert here.asked == 2
    here.busy = here.pressing = False
    await here.consider()
    assert (here.asked, here.chain.planning) == (3, False)
    here.answer = preview(placement("b-1"))
    here.outdated = True
    await here.change()  # a plan of what is no longer so is made again
    assert here.applied == (placement("a-1"),)
    here.outdated = False
    await here.consider()
    assert here.applied == (placement("b-1"),)


async def test_no_job_begins_while_a_plan_for_an_under_served_model_is_due_or_made(
    here: Situation,
) -> None:
    here.pressing = True
    assert not here.urgent()  # nothing changed since the last plan
    here.chain.changed()
    assert here.urgent()
    here.chain.consider()
    assert here.urgent()  # it is being made
    await a_moment()
    assert not here.urgent()
    here.answer = OSError("no process can be started")
    await here.change()
    assert not here.urgent()  # a planner that never works keeps nobody from measuring


def test_a_plan_made_while_a_job_runs_speaks_of_what_was_planned_and_what_is_under_served() -> None:
    missing = Unplaced("full", "there is no room", 1.0, "")
    asleep = placement("sleeper-1", [1])
    applied = dataclasses.replace(plan(placement("a-1")), unplaced=(missing,), asleep=(asleep,))
    records = [record(name) for name in ("a", "full", "sleeper", "woken", "new")]
    assert not_yet_planned(records, applied, ["woken"]) == {"new"}
    assert not_yet_planned(records, None, ["woken"]) == {"a", "full", "sleeper", "new"}
    assert woken_without_place(applied, {"sleeper": 1}) == frozenset()
    assert woken_without_place(applied, {}) == {"sleeper"}
    assert woken_without_place(None, {}) == frozenset()


async def test_closing_ends_a_plan_that_is_being_made_and_nothing_follows(
    here: Situation,
) -> None:
    started = asyncio.Event()

    async def never() -> PlanPreview:
        started.set()
        await asyncio.Event().wait()
        return preview()

    plain, here.chain._preview = here.chain._preview, never
    await here.change()
    await started.wait()
    await asyncio.wait_for(here.chain.close(), WAIT_SECONDS)
    here.chain._preview = plain
    here.answer = preview(placement("a-1"))
    await here.change()
    assert (here.asked, here.applied) == (0, ())
