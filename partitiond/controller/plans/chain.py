"""Takes a registered model from an estimate over profile jobs to an applied plan.

The rules, in the order in which they are checked:

1. A model that is not measured yet is looked at first, wherever a lease can be had: shortly,
   on one kind of device (`core.profile.jobs.NOT_MEASURED`). While such a job runs, the daemon
   makes no plan by itself for new models: a replica started meanwhile would hold the cores that
   the next job needs, and the queue would wait for these cores for ever. So on a small host all
   models are looked at, then planned together. Looks at other kinds of device, of which the plan
   has estimates, and what looks left open are done after that plan (`LATER`), on room that nothing
   holds, and no plan waits for them. An under-served model waits for no job (rule 10).
2. When the queue is empty, or all queued jobs wait for room that serving replicas hold, a plan is
   made of what is known. A model whose job waits for such room is planned from its estimate (its
   replicas are provisional), and so is a model whose job was cancelled. This cannot shut out the
   model's own job where the job could run: rule 1 let the job run first. A model that an operator
   applied from its estimate stays planned: a plan without the model would stop it. If the model's
   obstacle stopped it, it is planned from its estimate again once the obstacle is gone.
3. A model that cannot run (`core.replica.obstacles`) is left out, and all others are planned
  without it.
   A model whose profile failed is not started by itself: what broke the engine under the profiler
   would break the replica. The model's note says so. The model goes on if an operator asks for the
   profile again, or plans and applies by hand.
4. The chain never starts a model with `auto` off, measured or not. Once an operator applied a
   plan with such a model, the model is planned like the others.
5. The daemon applies a plan by itself only if the plan starts replicas and moves or stops none.
   Otherwise an event and the model's note say that the plan waits for `apply`. At most one plan
   waits, and only while it may still be applied. A newer plan that moves or stops running replicas
   takes its place, even one that an operator asked for. The waiting plan is withdrawn once a newer
   plan moves and stops nothing, or once what the waiting plan was made from has changed.
6. Each variant that a model lists is measured like the model itself, after it. Once any form of a
   model was measured on some hardware, no form of it is planned from an estimate there: a variant
   that was not measured yet waits for its own job.
7. A model that scales by itself is planned for the demand that was measured. A plan that stops or
   moves only replicas of such models, and never a model's last one, is applied by itself
   (`core.demand.planned_rate`). A model with `auto` off that scales to zero starts when a request
   asks for it.
8. A plan describes the moment at which it was begun. If models, profiles, devices or the applied
   plan changed while it was made, it is discarded and another one is made.
9. While replicas of the applied plan have no device to run on, the plan is made without the
   search (`PlanRequest.may_search`): running replicas stay, and no plan waits for its time limit.
10. A model is under-served while a replica of it has lost its device (on a silent device: once its
   engine has ended, too), while autoscaling asks for another number of replicas, or while the
   model is awake and asked for and has no place. Then a plan is made and applied even while jobs
   run. This plan includes only models that were planned before or are under-served, and places
   nothing on what a running job holds. No job begins before the plan is made and the replicas that
   it starts serve. When a running job ends, its room goes to such a plan first.
11. While replicas have lost their devices, the plan moves running replicas only if nothing else
    serves what was asked (`MAX_MOVE_PRICE`): lost replicas are placed beside the running ones, by
    itself, though a move would save a device. The next plan may save it, and waits for `apply`.
12. A plan that cannot be made, or fails while it is applied, is tried again after a delay that
   doubles; readiness reports the problem meanwhile.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.core.errors import PartitiondError
from partitiond.core.model.record import ModelRecord
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.replica.sleep import scales_to_zero
from partitiond.core.views.preview import PlanPreview
from partitiond.ports import Clock

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS: Final = 1.0
MOST_RETRY_SECONDS: Final = 60.0
"""A planner that always fails costs one solve a minute, and is seen to recover in one. Chosen."""


def retry_seconds(failures: int) -> float:
    """Return the back-off after so many failed plans in a row: it doubles, up to a cap."""
    if failures <= 0:
        return 0.0
    doublings = min(failures - 1, 30)  # beyond any cap; keeps the power from overflowing
    return min(MOST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0**doublings)


def woken_without_place(plan: Plan | None, asleep: Mapping[str, int]) -> frozenset[str]:
    """Models that a plan has asleep and that should be awake by now: their room was given away."""
    return frozenset(p.model for p in (plan.asleep if plan is not None else ())) - asleep.keys()


def not_yet_planned(
    records: Sequence[ModelRecord], plan: Plan | None, under_served: Collection[str]
) -> frozenset[str]:
    """Models that a plan leaves out if it is made while a job runs (rules 1 and 10)."""
    known = set(under_served)
    if plan is not None:
        known |= {p.model for p in plan.wanted} | {one.model for one in plan.unplaced}
    return frozenset(record.spec.name for record in records) - known


def may_be_provisional(jobs: Sequence[Job]) -> bool:
    """Whether a model that is not measured may be started from its estimate (rules 2 and 3).

    Args:
        jobs: its profile jobs, newest first.
    """
    if any(job.state is JobState.QUEUED for job in jobs):
        return True
    return bool(jobs) and jobs[0].state is JobState.CANCELLED


def held_back(
    records: Sequence[ModelRecord],
    profiles: Callable[[str], Sequence[Profile]],
    jobs: Sequence[Job],
    planned: Collection[str],
) -> frozenset[str]:
    """Models that a plan made by itself may not place from estimates (rules 2 and 3).

    Args:
        planned: as `ObstacleUseCases.planned`.
    """
    names = set()
    for record in records:
        name = record.spec.name
        if scales_to_zero(record.spec) and not record.spec.auto:
            continue
        if name in planned or any(p.kind is not ProfileKind.ESTIMATED for p in profiles(name)):
            continue
        own = [job for job in jobs if job.subject == name and job.kind == "profile"]
        if not may_be_provisional(own):
            names.add(name)
    return frozenset(names)


def left_out(records: Sequence[ModelRecord], planned: Collection[str]) -> frozenset[str]:
    """Models that a plan made by itself leaves out (rule 4); `planned` is as in `held_back`."""
    return frozenset(
        r.spec.name
        for r in records
        if not r.spec.auto and r.spec.name not in planned and not scales_to_zero(r.spec)
    )


def changes_nothing(made: Plan, applied: Plan | None) -> bool:
    """Return whether a plan wants what is applied already."""
    return not made.wanted if applied is None else made.repeats(applied)


class Chain:
    """Makes and applies plans by itself when something changed and no job stands in the way.

    Attributes:
        waiting: id of the plan that waits for `apply`; empty if none waits.
        problem: why the last plan could not be made; empty after one was made.
        note: why there is nothing to apply, or which plan waits, in one sentence.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        ready: Callable[[], bool],
        pressing: Callable[[], bool],
        preview: Callable[[], Awaitable[PlanPreview]],
        fresh: Callable[[], bool],
        lasts: Callable[[str], bool],
        apply: Callable[[PlanPreview], None],
        touches_running: Callable[[PlanPreview], bool],
        current: Callable[[], Plan | None],
    ) -> None:
        """Wire it.

        Args:
            journal: for events.
            clock: for the back-off between two tries.
            ready: whether no job runs that models wait for, so that all may be planned.
            pressing: whether a model is under-served, so that a plan is made while jobs run.
            preview: makes a plan of what the daemon may use by itself.
            fresh: whether what the last preview was made from still holds.
            lasts: whether the plan of an id may still be applied.
            apply: applies a plan.
            touches_running: whether a plan would move or stop a replica that has a process.
            current: the applied plan.
        """
        self._journal = journal
        self._clock = clock
        self._ready = ready
        self._pressing = pressing
        self._preview = preview
        self._fresh = fresh
        self._lasts = lasts
        self._apply = apply
        self._touches_running = touches_running
        self._current = current
        self._changed = False
        self._helped = False  # whether a plan was made while jobs run, since the last change
        self._doubted = False
        self._failures = 0
        self._retry_at = -math.inf
        self._said = ""
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.waiting = ""
        self.problem = ""
        self.note = ""

    def changed(self) -> None:
        """Note that what plans are made from changed; plan as soon as rules 1 and 10 allow."""
        self._changed = self._doubted = True
        self._helped = False

    @property
    def closed(self) -> bool:
        """Whether the daemon ends: nothing is planned or applied any more."""
        return self._closed

    @property
    def planning(self) -> bool:
        """Whether a plan is being made, or due."""
        return self._changed or self._in_the_making

    @property
    def urgent(self) -> bool:
        """Whether a plan for an under-served model is due or being made: no job begins before it.

        False between two tries, so that a planner that always fails does not keep jobs waiting.
        """
        if self._failures or not (self._in_the_making or (self._changed and not self._helped)):
            return False
        return self._pressing()

    @property
    def _in_the_making(self) -> bool:
        return self._task is not None and not self._task.done()

    def settled(self) -> None:
        """Note that a plan was applied: no plan waits any more."""
        self.waiting, self.note, self._said = "", "", ""

    def compare(self, preview: PlanPreview) -> None:
        """Let a plan that an operator asked for take the place of the waiting one."""
        if not self.waiting or preview.infeasible is not None:
            return
        if self._touches_running(preview):
            self._wait_for(preview)
        else:
            self._withdraw(f"{preview.plan.id}, made since, moves and stops nothing")

    def consider(self) -> None:
        """Make a plan if one is due; called after each pass of the loop."""
        if self._closed:
            return
        if self._doubted and self.waiting and not self._lasts(self.waiting):
            self._withdraw("models, profiles or devices changed")
        self._doubted = False
        if not self._changed or self._in_the_making or self._clock.monotonic() < self._retry_at:
            return
        alone = self._ready()
        if alone:
            self._changed = False
        elif self._helped or not self._pressing():
            return
        # A plan made while a job runs leaves models out; they remain to plan (`_changed` stays).
        self._helped = not alone
        self._task = asyncio.create_task(self._plan(alone=alone), name="chain")

    async def close(self) -> None:
        """Cancel a plan that is being made; no plan is made or applied from now on."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _plan(self, *, alone: bool) -> None:
        try:
            await self._make(alone=alone)
        except PartitiondError as error:
            self._failed(str(error))
        except Exception as error:
            # A defect in one plan must neither end the planning nor stay silent.
            log.exception("a plan broke")
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._failures, self.problem = 0, ""

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._retry_at = self._clock.monotonic() + retry_seconds(self._failures)
        self._again()
        self.problem = why
        self._say("plan-failed", "plan", why)

    def _again(self) -> None:
        self._changed, self._helped = True, False

    async def _make(self, *, alone: bool) -> None:
        """Make a plan and apply it, or note why it is not applied.

        Args:
            alone: whether the plan was begun while no job ran.
        """
        preview = await self._preview()
        if self._closed:
            return
        if (alone and not self._ready()) or not self._fresh():
            self._again()  # a job started meanwhile (rule 1), or it is outdated (rule 8)
            return
        if preview.infeasible is not None:
            self._withdraw("no plan serves what was asked")
            self._say("plan-infeasible", "plan", "; ".join(preview.infeasible.reasons))
        elif changes_nothing(preview.plan, self._current()):
            self._withdraw("what is applied is as good")
            self.note = self._said = ""
        elif self._touches_running(preview):
            self._wait_for(preview)
        else:
            self._apply(preview)
            self.settled()

    def _wait_for(self, preview: PlanPreview) -> None:
        self.waiting = preview.plan.id
        moved, stopped = len(preview.diff.move), len(preview.diff.stop)
        self._say(
            "plan-waits",
            preview.plan.id,
            f"{preview.plan.id} waits for `partitiond apply {preview.plan.id}`, because it "
            f"moves {moved} and stops {stopped} running replicas.",
        )

    def _withdraw(self, why: str) -> None:
        """Withdraw the waiting plan, and note why if there is one."""
        waited, self.waiting = self.waiting, ""
        if waited:
            self.note = self._said = ""
            self._journal.note("plan-withdrawn", waited, f"waits no longer: {why}.")

    def _say(self, kind: str, subject: str, message: str) -> None:
        if message != self._said:
            self._journal.note(kind, subject, message)
        self.note = self._said = message
