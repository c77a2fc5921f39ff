"""Watches the instrument itself: a saturated client measures its own queue, not the server.

The watch reads three signs: the CPU time of the thread that runs the event loop, how late sends
were started, and how late the event loop woke a task that only sleeps. Bytes that arrive during a
stall are time-stamped after it, so stalls add directly to every latency.
"""

import asyncio
import dataclasses
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from loadgen.http.connection import now
from loadgen.results.statistics import percentile

PROBE_SECONDS: Final = 0.02
"""Fifty wake-ups a second: under 0.2 % of a core, and enough for a p99 after two seconds."""
MIN_PROBES: Final = 50
"""With fewer probes the p99 is the maximum of a handful, and one hiccup of the host fails a run."""
MAX_CPU_SHARE: Final = 0.85
"""Queueing at the instrument grows without bound towards a full core; at 85 % of a core the mean
wait is already several times the work for one chunk."""
MAX_LATE_SECONDS: Final = 0.025
"""A few scheduler slices of a busy host; small beside the TTFT of any engine under load."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The instrument's readings of itself during a window.

    Attributes:
        cpu_share: CPU time of the event loop's thread, divided by the window's length.
        lag_seconds_p99: how late sends were started; 0 in a closed loop, which has no schedule.
        lags: number of sends behind `lag_seconds_p99`.
        stall_seconds_p99, worst_stall_seconds: how late the event loop woke.
        probes: number of wake-ups behind these two.
    """

    cpu_share: float = 0.0
    lag_seconds_p99: float = 0.0
    lags: int = 0
    stall_seconds_p99: float = 0.0
    worst_stall_seconds: float = 0.0
    probes: int = 0


NO_READING: Final = Reading()


def saturation(reading: Reading, max_late_seconds: float = MAX_LATE_SECONDS) -> tuple[str, ...]:
    """Reasons why figures taken with this reading are unreliable; empty if they are reliable."""
    reasons = []
    if reading.cpu_share > MAX_CPU_SHARE:
        reasons.append(
            f"the load generator used {reading.cpu_share:.0%} of one core "
            f"(at most {MAX_CPU_SHARE:.0%} is trusted)"
        )
    if reading.lags >= MIN_PROBES and reading.lag_seconds_p99 > max_late_seconds:
        reasons.append(
            f"requests were sent {reading.lag_seconds_p99 * 1e3:.0f} ms late at p99 "
            f"(at most {max_late_seconds * 1e3:.0f} ms is trusted)"
        )
    if reading.probes >= MIN_PROBES and reading.stall_seconds_p99 > max_late_seconds:
        reasons.append(
            f"its event loop stalled for {reading.stall_seconds_p99 * 1e3:.0f} ms at p99 "
            f"(at most {max_late_seconds * 1e3:.0f} ms is trusted)"
        )
    return tuple(reasons)


class Watch:
    """Probes the event loop it runs on; `open` and `close` mark the window that counts.

    Args:
        clock: seconds.
        cpu: CPU seconds of the calling thread.
    """

    def __init__(
        self, clock: Callable[[], float] = now, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._now, self._cpu_now = clock, cpu
        self._opened, self._cpu = clock(), cpu()
        self._delays = array("d")
        self._closed: tuple[float, float] | None = None
        self._live = (self._opened, self._cpu)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            due = self._now() + PROBE_SECONDS
            await asyncio.sleep(PROBE_SECONDS)
            if self._closed is None:
                self._delays.append(max(0.0, self._now() - due))

    def open(self) -> None:
        """Begin the window. Call this and every other method on the event loop's thread."""
        self._opened, self._cpu, self._closed = self._now(), self._cpu_now(), None
        del self._delays[:]

    def close(self) -> None:
        """End the window."""
        self._closed = (self._now(), self._cpu_now())

    def recent_cpu_share(self) -> float:
        """Share of a core since the last call, for a progress line."""
        at, cpu = self._now(), self._cpu_now()
        before, self._live = self._live, (at, cpu)
        return (cpu - before[1]) / max(1e-9, at - before[0])

    def reading(self, lags: Sequence[float] = ()) -> Reading:
        """The window's reading; `lags` says how late each send was started."""
        at, cpu = self._closed or (self._now(), self._cpu_now())
        delays = sorted(self._delays)
        return Reading(
            cpu_share=(cpu - self._cpu) / max(1e-9, at - self._opened),
            lag_seconds_p99=percentile(sorted(lags), 0.99) if lags else 0.0,
            lags=len(lags),
            stall_seconds_p99=percentile(delays, 0.99) if delays else 0.0,
            worst_stall_seconds=delays[-1] if delays else 0.0,
            probes=len(delays),
        )
