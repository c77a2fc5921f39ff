"""Implements `ports.Clock` by the real clock."""

import datetime
import time


class SystemClock:
    """The clock of the host; implements `ports.Clock`."""

    def monotonic(self) -> float:
        """Seconds that never decrease."""
        return time.monotonic()

    def utc_iso(self) -> str:
        """Wall-clock time, ISO 8601 UTC, to the millisecond."""
        now = datetime.datetime.now(datetime.UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
