"""How far a plan is, as people ask for it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from partitiond.core.convergence import Convergence


class Convergences(Protocol):
    """Says how far plans are."""

    def now(self, plan_id: str | None = None) -> Convergence:
        """How far a plan is; without an id the applied one, and what the daemon is about to do.

        Raises NotFoundError: no plan of that id was applied.
        """
        ...

    def watch(self, plan_id: str | None = None) -> AsyncGenerator[Convergence, None]:
        """The same now and each time it changes, until it is converging no more.

        Raises NotFoundError: no plan of that id was applied.
        """
        ...
