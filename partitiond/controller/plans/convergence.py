"""Reports how far the applied plan is, and which plan replaced an earlier one."""

import dataclasses
from collections.abc import AsyncGenerator
from typing import Final

from partitiond.controller.plans.chain import Chain
from partitiond.controller.plans.obstacles import ObstacleUseCases
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.watching import ModelFiles
from partitiond.controller.watchers import Watchers
from partitiond.core.errors import NotFoundError
from partitiond.core.plan.record import Plan
from partitiond.core.replica.convergence import (
    Ahead,
    Convergence,
    Explanations,
    Files,
    PlanState,
    Replaced,
    convergence,
    replaced_by,
    settling,
    superseded,
)
from partitiond.ports import Clock
from partitiond.ports.actor import current_actor
from partitiond.store import Store

PLANS_KEPT: Final = 50
"""Number of replaced plans whose successors are remembered; older ones are forgotten."""


class ConvergenceUseCases:
    """Says how far plans are.

    A watcher is woken after each pass of the loop.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        controller: Controller,
        chain: Chain,
        jobs: JobQueue,
        files: ModelFiles,
        obstacles: ObstacleUseCases,
    ) -> None:
        self._store = store
        self._clock = clock
        self._controller = controller
        self._chain = chain
        self._jobs = jobs
        self._files = files
        self._obstacles = obstacles
        self._watchers = Watchers()
        self._replaced: dict[str, Replaced] = {}
        self._picture: object = None
        self._moved_at = clock.monotonic()

    def looked(self) -> None:
        """Wake the watchers; called after each pass of the loop."""
        self._watchers.changed()

    def replaced(self, old: Plan, new: Plan) -> None:
        """Remember which plan replaces another one."""
        self._replaced[old.id] = replaced_by(old, new, current_actor())
        for plan_id in tuple(self._replaced)[:-PLANS_KEPT]:
            del self._replaced[plan_id]

    def close(self) -> None:
        """End all watches because the daemon ends: each watcher gets the last state first."""
        self._watchers.close()

    def now(self, plan_id: str | None = None) -> Convergence:
        """Return how far a plan is; without an id the applied one, with what the daemon does next.

        Raises:
            NotFoundError: no plan of that id was applied.
        """
        plan = self._controller.plan
        if plan_id is not None and (plan is None or plan.id != plan_id):
            gone = superseded(plan_id, self._successor(plan_id, plan))
            return dataclasses.replace(gone, last_event=self._last_event())
        ahead = self._ahead() if plan_id is None else Ahead()
        now = settling(self._applied(plan), ahead, self._controller.problem)
        return dataclasses.replace(
            now, still_seconds=self._still_seconds(now), last_event=self._last_event()
        )

    def _still_seconds(self, now: Convergence) -> int:
        """Return the whole seconds since the picture last changed, as far as calls observed it."""
        at = self._clock.monotonic()
        if now.picture != self._picture:
            self._picture, self._moved_at = now.picture, at
        return int(at - self._moved_at)

    def watch(self, plan_id: str | None = None) -> AsyncGenerator[Convergence, None]:
        """Yield what `now` returns, and each change of it, until the plan converges no more.

        Raises:
            NotFoundError: no plan of that id was applied.
        """
        self.now(plan_id)
        return self._watchers.watch(
            lambda: self.now(plan_id), lambda now: now.state is not PlanState.CONVERGING
        )

    def _applied(self, plan: Plan | None) -> Convergence:
        controller, files = self._controller, self._files
        observation, hosts = controller.observe(), controller.hosts()
        shown = [
            dataclasses.replace(replica, state=engine.shown)
            for replica, engine in zip(observation.replicas, controller.engines, strict=True)
        ]
        told = Explanations(
            files={
                form: Files(files.failures.get(form, 0), files.progress(form.partition(":")[0]))
                for form in observation.not_ready
            },
            copies={
                p.replica_id: self._copy(p.form, hosts.get(p.device_id, ""))
                for p in controller.desired
                if p.replica_id in observation.without_files
            },
            progress={
                (engine.placement.replica_id, engine.generation): engine.progress
                for engine in controller.engines
            },
            faults=controller.faults.reasons,
            obstacles=self._obstacles.present,
        )
        return convergence(
            plan,
            dataclasses.replace(observation, replicas=tuple(shown)),
            controller.reconcile_policy,
            controller.sleep.levels,
            told,
        )

    def _copy(self, form: str, host: str) -> Files:
        files, model = self._files, form.partition(":")[0]
        return Files(files.copy_failures(form, host), files.progress(model, host))

    def _successor(self, plan_id: str, plan: Plan | None) -> Replaced:
        if plan_id in self._replaced:
            return self._replaced[plan_id]
        if plan is not None:  # the previous daemon may have replaced it
            applied = self._store.applied_plans(PLANS_KEPT)
            old = next((one for one in applied if one.id == plan_id), None)
            if old is not None:
                return replaced_by(old, plan, "")
        raise NotFoundError(
            f"{plan_id} is not applied.",
            hint="`partitiond plan` makes a plan, `partitiond apply` applies one.",
            facts={"plan": plan_id},
        )

    def _ahead(self) -> Ahead:
        planning = self._chain.planning
        return Ahead(
            planning=planning,
            measuring=self._jobs.running if planning else "",
            waiting_plan_id=self._chain.waiting,
            note=self._chain.note,
        )

    def _last_event(self) -> int:
        return max((event.id for event in self._store.events(0, 1)), default=0)
