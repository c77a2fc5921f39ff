"""Makes and applies plans, when people or the chain ask for it."""

import asyncio
import collections
from collections.abc import Callable, Collection
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.plans.chain import (
    Chain,
    held_back,
    left_out,
    not_yet_planned,
    woken_without_place,
)
from partitiond.controller.plans.changed_worlds import OnProgress
from partitiond.controller.plans.obstacles import ObstacleUseCases, failed_profiles
from partitiond.controller.plans.planning import (
    PlanMaker,
    PlanOptions,
    planning_devices,
    running_placements,
    with_places,
    without_model,
)
from partitiond.controller.plans.queue import PlanQueue
from partitiond.controller.plans.situation import Basis, Situation, changes_between
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.core.errors import ConflictError, InputError, NotReadyError
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import Partition
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import (
    EMPTY_PLAN_ID,
    MAX_MOVE_PRICE,
    Placement,
    Plan,
    PlanDiff,
    diff_plans,
)
from partitiond.core.profile.record import Profile
from partitiond.core.replica.lost import stranded
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import Sleeper, sleepers
from partitiond.core.views.preview import PlanPreview
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock, EngineRunner
from partitiond.store import Store

SOLVES_PER_APPLY: Final = 10
"""Tries to make a plan that is not outdated when done; beyond, things change too fast. Chosen:
several models that start, are measured and are planned by themselves at once change it some times.
"""


def losses(running: Collection[Placement], plan: Plan) -> frozenset[str]:
    """Models with running replicas for which a plan has no room at all."""
    wanted = {placement.model for placement in plan.wanted}
    left_out = {one.model for one in plan.unplaced} - wanted
    return frozenset(left_out & {placement.model for placement in running})


class Plans:
    """Makes plans of the present situation, and applies them.

    Args:
        may_apply: returns whether a plan that stops or moves what runs may be applied by itself,
            by its difference to what has a process.
        rolling: returns models of which a new release is coming: a plan that moves no others is
            applied by itself.
        awaited: returns models that are asked for and have no place, or that are to get another
            number of replicas.

    Attributes:
        chain: makes and applies plans by itself.
    """

    def __init__(
        self,
        *,
        store: Store,
        runner: EngineRunner,
        clock: Clock,
        journal: Journal,
        devices: DeviceWatch,
        controller: Controller,
        jobs: JobQueue,
        maker: PlanMaker,
        obstacles: ObstacleUseCases,
        may_apply: Callable[[PlanDiff, Plan], bool],
        rolling: Callable[[], Collection[str]],
        awaited: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._runner = runner
        self._clock = clock
        self._journal = journal
        self._devices = devices
        self._controller = controller
        self._jobs = jobs
        self._maker = maker
        self._solving = asyncio.Lock()
        self._asked = PlanQueue()
        self._chain_made_from: Basis = {}
        self._chain_beside: frozenset[Partition] = frozenset()
        self._obstacles = obstacles
        self._may_apply = may_apply
        self._rolling = rolling
        self._awaited = awaited
        self.chain = Chain(
            journal=journal,
            clock=clock,
            ready=lambda: not (jobs.awaited or devices.overtaken),
            pressing=self._pressing,
            preview=self._preview_by_itself,
            fresh=self._fresh,
            lasts=lambda plan_id: maker.remembers(plan_id, self._basis()) is not None,
            apply=lambda preview: self._apply(preview, "by itself"),
            touches_running=self._touches_running,
            current=lambda: controller.plan,
        )

    def use(self, options: PlanOptions) -> None:
        """Make plans with these options from now on."""
        self._maker.use(options)

    async def preview(
        self, question: PlanQuestion | None = None, on_progress: OnProgress | None = None
    ) -> PlanPreview:
        """Make a plan of everything that is known, estimates included.

        Raises:
            InputError: a what-if names something that does not exist, or cannot be read.
            NotReadyError: too many callers wait for plans already, or no device was seen yet.
        """
        async with self._asked.turn():
            await self._devices.look()
            preview = await self._preview(question, on_progress)
        if question is None or question.is_plain:
            self.chain.compare(preview)
        return preview

    def applied(self) -> Plan | None:
        """Return the applied plan."""
        return self._controller.plan

    def waiting(self) -> PlanPreview | None:
        """Return the plan that waits for `apply`, and what it changes."""
        return self._maker.remembers(self.chain.waiting)

    async def _preview(
        self, question: PlanQuestion | None = None, on_progress: OnProgress | None = None
    ) -> PlanPreview:
        return await self._elsewhere_if_refused(self._situation(), question, on_progress)

    async def _elsewhere_if_refused(
        self,
        situation: Situation,
        question: PlanQuestion | None = None,
        on_progress: OnProgress | None = None,
        *,
        may_search: bool = True,
    ) -> PlanPreview:
        """Make a plan that places elsewhere what its device refuses. If that leaves a model fewer
        replicas, they wait for their device, where they start as soon as it takes them.
        """
        refused = self._controller.refused()
        tries = [situation.without(refused)] if refused else []
        for one in (*tries, situation):
            applied = self._controller.plan
            preview = await self._maker.preview(
                one, applied, question, on_progress, may_search=may_search
            )
            if not one.closed or not _leaves_out(preview, refused, self._controller.desired):
                break
        return preview

    def _situation(self) -> Situation:
        """Return what a plan on request would be made from now."""
        return self._maker.situation(
            devices=self._own_free(),
            running=self._running(),
            sleepers=self._sleepers(),
            asleep=self._controller.sleep.levels,
            obstacles=self._obstacles.now(),
            warnings=self._failed_profiles(),
        )

    def _failed_profiles(self) -> dict[str, Obstacle]:
        planned = self._obstacles.planned
        return failed_profiles(self._store.models(), self._best, self._jobs.jobs(), planned)

    async def imagine(
        self, change: Callable[[Situation], Situation], question: PlanQuestion | None = None
    ) -> PlanPreview:
        """Make the plan of a hypothetical situation. It cannot be applied.

        Raises:
            NotReadyError: too many callers wait for plans already, or no device was seen yet.
        """
        async with self._asked.turn():
            await self._devices.look()
            situation = change(self._situation())
            return await self._maker.preview(
                situation, self._controller.plan, question, remember=False
            )

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        """Apply the plan of that id, or a fresh one; the applied plan again changes nothing.

        Args:
            plan_id: of a preview; None for a fresh plan.
            allow_outage: whether models may have no replica, for a while or until there is room.

        Raises:
            ConflictError: the plan is outdated, no plan serves what was asked, or another control
                plane has taken over.
            InputError: the plan leaves a running model without a replica, which is not allowed.
            NotFoundError: there is no plan of that id.
            NotReadyError: the daemon is ending, or no device was looked at yet.
        """
        applied = self._controller.plan
        if plan_id is not None and applied is not None and applied.id == plan_id:
            asleep = self._controller.sleep.levels
            wanted = tuple(p for p in applied.wanted if p.model not in asleep)
            return PlanPreview(applied, diff_plans(self._running(), wanted))
        if plan_id is None:
            async with self._solving:  # one solve for people at a time; the chain waits for none
                preview = await self._lasting_preview(PlanQuestion(allow_outage=allow_outage))
        else:
            await self._devices.look()
            preview = self._maker.recall(plan_id, self._situation(), self._controller.plan)
        # From the check that the plan still holds to its application nothing is awaited.
        if preview.infeasible is not None:
            raise ConflictError(
                f"no plan serves what was asked: {'; '.join(preview.infeasible.reasons)}",
                hint=" ".join(preview.infeasible.remedies),
            )
        self._refuse_while_ending()
        self._refuse_if_overtaken()
        if not (allow_outage or self._maker.allows_outage(preview.plan.id)):
            self._refuse_losses(preview.plan)
        self._apply(preview, "as asked")
        return preview

    def _refuse_losses(self, plan: Plan) -> None:
        """Raises InputError: a serving model would stop serving, and that was not allowed."""
        may = {record.spec.name for record in self._store.models() if record.spec.allow_outage}
        lost = losses(self._running(only_live=True), plan) - may
        if lost:
            names = ", ".join(sorted(lost))
            raise InputError(
                f"{plan.id} leaves {names} without a replica: there is not room for all, and "
                "others take its place.",
                hint="Add devices or ask for less; or allow it with --allow-outage, or "
                "allow_outage in the model's spec.",
                facts={"plan": plan.id, "models": sorted(lost)},
            )

    async def _lasting_preview(self, question: PlanQuestion) -> PlanPreview:
        """Make a plan whose situation has not changed when it is done. Raises ConflictError."""
        for _ in range(SOLVES_PER_APPLY):
            await self._devices.look()
            before = self._basis()
            preview = await self._preview(question)
            if not (changed := changes_between(before, self._basis())):
                return preview
        raise ConflictError(
            f"something changed during each of {SOLVES_PER_APPLY} solves, at last {changed}.",
            hint="Nothing was applied; try again once they stay as they are.",
        )

    def _refuse_while_ending(self) -> None:
        if self.chain.closed:
            raise NotReadyError(
                "the daemon is ending; nothing was applied.",
                hint="Start it again, and apply then.",
            )

    def _refuse_if_overtaken(self) -> None:
        if why := self._devices.overtaken:
            raise ConflictError(f"nothing was applied: {why}")

    def _basis(self) -> Basis:
        """Return what a plan of the present situation rests on."""
        situation = self._maker.situation(
            devices=self._devices.devices,
            running=(),
            asleep=self._controller.sleep.levels,
            obstacles=self._obstacles.now(),
        )
        applied = self._controller.plan
        return situation.basis(applied.id if applied is not None else EMPTY_PLAN_ID)

    def drop_model(self, name: str) -> None:
        """Take a removed model out of the applied plan; its replicas drain and stop."""
        plan = self._controller.plan
        if plan is not None and any(p.model == name for p in plan.wanted):
            smaller = without_model(plan, name, self._maker.next_id(), self._clock.utc_iso())
            self._controller.apply(smaller)

    def take_places(self, model: str, before: Plan, what: str) -> None:
        """Give a model the places that it had in an earlier plan; the others stay as they are."""
        plan = self._controller.plan
        if plan is not None:
            now = self._clock.utc_iso()
            self._controller.apply(
                with_places(plan, before, model, plan_id=self._maker.next_id(), at=now, what=what)
            )

    def _apply(self, preview: PlanPreview, how: str) -> None:
        diff = preview.diff
        self._controller.apply(preview.plan)
        self.chain.settled()
        self._journal.note(
            "plan-applied",
            preview.plan.id,
            f"applied {how}: starts {len(diff.start)}, moves {len(diff.move)}, "
            f"stops {len(diff.stop)}, keeps {len(diff.keep)}.",
        )
        reached(FaultPoint.PLAN_APPLIED)

    def _fresh(self) -> bool:
        """Whether what the chain's last plan was made from still holds.

        A job that ended meanwhile took nothing from the plan; a job that started may have.
        """
        same = self._chain_made_from == self._basis()
        return same and self._chain_beside.issuperset(self._jobs.leases())

    def _pressing(self) -> bool:
        """Whether a model is under-served: its plan waits for no profile job."""
        if self._devices.overtaken:
            return False
        return self._lost() or bool(self._under_served())

    def _under_served(self) -> frozenset[str]:
        """Models that are asked for and lack replicas, without those that lost their devices."""
        plan, asleep = self._controller.plan, self._controller.sleep.levels
        return woken_without_place(plan, asleep) | frozenset(self._awaited())

    async def _preview_by_itself(self) -> PlanPreview:
        await self._devices.refresh(0.0)
        self._chain_made_from = self._basis()
        leases = self._jobs.leases()
        self._chain_beside = frozenset(leases)
        records, desired = self._store.models(), self._controller.desired
        planned = self._obstacles.planned
        absent = left_out(records, planned)
        if self._jobs.awaited:
            named = self._under_served() | planned
            absent |= not_yet_planned(records, self._controller.plan, named)
        situation = self._maker.situation(
            devices=self._own_free(),
            running=self._running(),
            without_estimates=held_back(records, self._best, self._jobs.jobs(), planned),
            left_out=absent,
            leases=self._jobs.lent(),
            sleepers=self._sleepers(),
            asleep=self._controller.sleep.levels,
            obstacles={**self._failed_profiles(), **self._obstacles.now()},
        )
        # Lost replicas are placed beside running ones, though a move would save a device: a plan
        # that moves running replicas waits for an operator, and the lost ones would wait with it.
        question = PlanQuestion(move_price=MAX_MOVE_PRICE) if self._lost() else None
        may_search = not stranded(desired, self._devices.devices)
        return await self._elsewhere_if_refused(situation, question, may_search=may_search)

    def _lost(self) -> bool:
        """Whether replicas of the applied plan have lost their devices: gone, failed or silent, or
        refusing them.
        """
        desired = self._controller.desired
        withheld = self._controller.withheld()
        cut_off = (self._devices.is_silent(p.device_id) and withheld(p) for p in desired)
        lost = stranded(desired, self._devices.devices) or any(cut_off)
        return lost or bool(self._controller.refused())

    def _best(self, name: str) -> tuple[Profile, ...]:
        return self._maker.best.of(self._store.model(name).spec)

    def _touches_running(self, preview: PlanPreview) -> bool:
        """Whether a plan moves or stops what has a process; a replica without one moves freely.

        A replica that still sleeps moves freely, too. But a plan that leaves its model out would
        end its sleep for good, and waits for an operator to apply it.
        """
        live = self._running(only_live=True)
        diff = diff_plans(live, preview.plan.placements)
        allowed = _only_touches(diff, preview.plan, self._rolling())
        if not (diff.touches_nothing_running or allowed or self._may_apply(diff, preview.plan)):
            return True
        there = {engine.placement.model for engine in self._controller.engines if engine.live}
        placed = {placement.model for placement in preview.plan.wanted}
        return any(p.model in there and p.model not in placed for p in self._running())

    def _running(self, *, only_live: bool = False) -> tuple[Placement, ...]:
        """Return what runs or is about to, without withheld placements: these do neither."""
        asleep, withheld = self._controller.sleep.levels, self._controller.withheld()
        return running_placements(
            [p for p in self._controller.desired if not withheld(p)],
            [e for e in self._controller.engines if not withheld(e.placement)],
            only_live=only_live,
            asleep=asleep,
        )

    def _sleepers(self) -> tuple[Sleeper, ...]:
        return sleepers(self._controller.desired, self._controller.sleep.levels)

    def _own_free(self) -> tuple[Device, ...]:
        used = [
            (engine, self._runner.peak_memory_bytes(engine.handle))
            for engine in self._controller.engines
            if engine.live and engine.handle is not None
        ]
        unheard = self._controller.unheard(self._controller.desired)
        return planning_devices(self._devices.devices, used, unheard)


def _leaves_out(
    preview: PlanPreview, refused: Collection[Placement], applied: Collection[Placement]
) -> bool:
    """Whether a plan has fewer replicas than the applied one of a model that a device refuses."""
    had = collections.Counter(placement.model for placement in applied)
    has = collections.Counter(placement.model for placement in preview.plan.wanted)
    return any(has[model] < had[model] for model in {p.model for p in refused})


def _only_touches(diff: PlanDiff, plan: Plan, models: Collection[str]) -> bool:
    """Whether a plan moves and stops only replicas of these models, and leaves none of them out."""
    touched = {p.model for p in (*diff.stop, *(old for old, _ in diff.move))}
    return touched <= {p.model for p in plan.wanted if p.model in models}
