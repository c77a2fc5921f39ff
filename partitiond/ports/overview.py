"""Defines one look at everything, for the dashboard, `partitiond top` and scripts."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.views.lists import ReplicaView
from partitiond.core.views.overview import WINDOW_SECONDS, Overview


class Overviews(Protocol):
    """Makes overviews."""

    async def overview(self, window_seconds: float = WINDOW_SECONDS) -> Overview:
        """Return everything at this moment, with rates and means over the last `window_seconds`."""
        ...

    def replicas(self) -> Sequence[ReplicaView]:
        """Return all replicas, including stopped and failed ones that are still wanted."""
        ...
