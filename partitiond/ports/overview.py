"""Defines one look at everything, for the dashboard, `partitiond top` and scripts."""

from typing import Protocol

from partitiond.core.views.overview import WINDOW_SECONDS, Overview


class Overviews(Protocol):
    """Makes overviews."""

    async def overview(self, window_seconds: float = WINDOW_SECONDS) -> Overview:
        """Return everything at this moment, with rates and means over the last `window_seconds`."""
        ...
