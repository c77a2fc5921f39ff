"""Decides when a measuring window may close, by a pure rule over the measurements so far."""

import dataclasses
import enum
from typing import Final

LOOK_RATIO: Final = 1.2
"""How much longer a window must be when its interval is checked again. Frequent checks find a
moment in which the interval happens to be too narrow, and would close the window there: with four
checks a second, intervals called 95 % hold the truth in 87 to 91 % (docs/profiling-method.md)."""


class WindowState(enum.StrEnum):
    """The rule's answer for a window."""

    OPEN = "open"
    CLOSED = "closed"
    WIDE = "wide"
    """Closed at its time limit, with a wider interval than wanted."""


@dataclasses.dataclass(frozen=True, slots=True)
class WindowRule:
    """Limits on the length and the precision of a window.

    Attributes:
        min_seconds: shortest window.
        min_e2el: shortest window in mean end-to-end latencies; shorter windows see only one phase
            of the requests.
        max_seconds: the time limit; the two minima take precedence over it.
        half_width_share: close once the 95 % half-width is at most this share of throughput.
    """

    min_seconds: float = 10.0
    min_e2el: float = 2.0
    max_seconds: float = 60.0
    half_width_share: float = 0.05

    def least_seconds(self, mean_e2el: float) -> float:
        """Shortest window for requests with this mean end-to-end latency."""
        return max(self.min_seconds, self.min_e2el * mean_e2el)

    def next_look(self, looked_at: float, mean_e2el: float) -> float:
        """Time at which the interval may be checked again, in seconds since the window opened.

        Args:
            looked_at: time of the last check, in the same seconds; 0 before the first check.
            mean_e2el: mean end-to-end latency of the requests, in seconds.
        """
        least = self.least_seconds(mean_e2el)
        return max(least, min(LOOK_RATIO * looked_at, self.max_seconds))

    def state(
        self, elapsed: float, mean_e2el: float | None, half_width_share: float
    ) -> WindowState:
        """Whether a window open for `elapsed` seconds may close.

        Args:
            elapsed: seconds since the window opened.
            mean_e2el: mean of the requests, in seconds; None before a request has ended.
            half_width_share: share of the throughput; infinite between two checks (`next_look`).
        """
        if mean_e2el is None or elapsed < self.least_seconds(mean_e2el):
            return WindowState.OPEN
        if half_width_share <= self.half_width_share:
            return WindowState.CLOSED
        if elapsed >= max(self.max_seconds, self.least_seconds(mean_e2el)):
            return WindowState.WIDE
        return WindowState.OPEN


def fixed(seconds: float) -> WindowRule:
    """A window of exactly this length, for any interval."""
    return WindowRule(
        min_seconds=seconds, min_e2el=0.0, max_seconds=seconds, half_width_share=float("inf")
    )
