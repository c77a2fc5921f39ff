"""Defines how callers ask how far a plan is."""

from collections.abc import AsyncGenerator
from typing import Protocol

from partitiond.core.replica.convergence import Convergence


class Convergences(Protocol):
    """Says how far plans are."""

    def now(self, plan_id: str | None = None) -> Convergence:
        """Return how far a plan is; by default the applied one, with the daemon's next steps.

        Raises NotFoundError: no plan of that id was applied.
        """
        ...

    def watch(self, plan_id: str | None = None) -> AsyncGenerator[Convergence, None]:
        """Yield the same now and at each change, until the plan is converging no more.

        Raises NotFoundError: no plan of that id was applied.
        """
        ...
