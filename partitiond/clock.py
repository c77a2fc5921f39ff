"""The real clock behind `ports.Clock`."""

import datetime
import time


class SystemClock:
    """Time as the host tells it; implements `ports.Clock`."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def utc_iso(self) -> str:
        """Wall-clock time, ISO 8601 UTC, to the millisecond."""
        now = datetime.datetime.now(datetime.UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
