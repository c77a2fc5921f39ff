"""Fakes plans: they place nothing, and say what was asked."""

import asyncio
from collections.abc import Callable

from partitiond.core.errors import ConflictError
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.answers import (
    Alternative,
    PlanAnswers,
    PlanProgress,
    PlanQuestion,
    figures_of,
)
from partitiond.core.plan.record import Certificate, Infeasible, Objective, Plan, PlanDiff, Status
from partitiond.core.views.preview import PlanPreview
from partitiond.ports import Store
from tests.api.fake_models import AT


class FakePlans:
    """Implements `ports.service.PlanControl`. Attributes are for tests to set and look at."""

    def __init__(self, store: Store, devices: tuple[Device, ...]) -> None:
        self.store = store
        self.devices = devices
        self.infeasible: Infeasible | None = None
        self.questions: list[PlanQuestion] = []
        self.error: Exception | None = None
        self.solving = asyncio.Event()
        self.solving.set()
        self.ended_early = asyncio.Event()

    async def preview(
        self,
        question: PlanQuestion | None = None,
        on_progress: Callable[[PlanProgress], None] | None = None,
    ) -> PlanPreview:
        asked = question or PlanQuestion()
        self.questions.append(asked)
        objective = asked.objective or Objective.MIN_DEVICES
        if on_progress is not None:
            on_progress(PlanProgress("the plan", objective=objective, value=2.0, bound=1.0))
            await self._solving()
        if self.error is not None:
            raise self.error
        certificate = Certificate(objective, 0.0, 0.0, 0.0, Status.OPTIMAL, "exact", 0.0)
        plan = Plan(
            f"plan-{self.store.next_counter('plan')}",
            (),
            self.devices,
            (),
            (),
            certificate,
            ("nothing is registered",),
            AT,
        )
        others = tuple(Alternative(text, figures_of(plan), 0.0) for text in asked.what_if)
        return PlanPreview(
            plan, PlanDiff((), (), (), ()), self.infeasible, PlanAnswers(what_if=others)
        )

    async def _solving(self) -> None:
        """Until the test lets it go; told when it is ended instead."""
        try:
            await self.solving.wait()
        except asyncio.CancelledError:
            self.ended_early.set()
            raise

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        preview = await self.preview()
        if plan_id is not None and plan_id != "plan-1":
            raise ConflictError(f"plan {plan_id} is outdated.", hint="Make a fresh one.")
        self.store.set_plan(preview.plan)
        return preview

    def applied(self) -> Plan | None:
        return self.store.plan()

    def waiting(self) -> PlanPreview | None:
        return None
