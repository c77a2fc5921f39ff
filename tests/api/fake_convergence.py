"""Fakes the progress of a plan: it is as a test sets it."""

from collections.abc import AsyncGenerator

from partitiond.controller.watchers import Watchers
from partitiond.core.errors import NotFoundError
from partitiond.core.replica.convergence import Convergence, PlanState


class FakeConvergence:
    """Implements `ports.convergence.Convergences` for one plan, "plan-1"."""

    def __init__(self) -> None:
        self.told = Convergence("plan-1", PlanState.CONVERGED, 1, 1, 0, 1.0, "")
        self.watchers = Watchers()

    def tell(self, told: Convergence) -> None:
        self.told = told
        self.watchers.changed("")

    def now(self, plan_id: str | None = None) -> Convergence:
        if plan_id not in (None, "plan-1"):
            raise NotFoundError(f"{plan_id} is not applied.", hint="`partitiond apply`.")
        return self.told

    def watch(self, plan_id: str | None = None) -> AsyncGenerator[Convergence, None]:
        self.now(plan_id)
        return self.watchers.watch(
            "", lambda: self.told, lambda now: now.state is not PlanState.CONVERGING
        )
