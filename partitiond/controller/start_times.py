"""How long engines took to start, from the journal. Pure."""

import datetime
import statistics
from collections.abc import Iterable
from typing import Final

from partitiond.ports import Event

_STARTING: Final = "engine-starting"
_READY: Final = "engine-ready"
_ENDED: Final = ("engine-failed", "engine-stopped")
_STARTS: Final = "starts "
LONGEST_SECONDS: Final = 3600.0
"""A longer gap is a clock that was set, not a start."""


def start_times(events: Iterable[Event]) -> dict[str, float]:
    """The median start in seconds, by model.

    A start goes from the event that an engine starts to the one that it serves; one that failed
    or was stopped in between does not count.

    Args:
        events: oldest first.
    """
    begun: dict[str, tuple[str, str]] = {}
    seen: dict[str, list[float]] = {}
    for event in events:
        if event.kind == _STARTING and event.message.startswith(_STARTS):
            model = event.message.removeprefix(_STARTS).removesuffix(".")
            begun[event.subject] = (model, event.at)
        elif event.kind in _ENDED:
            begun.pop(event.subject, None)
        elif event.kind == _READY and event.subject in begun:
            model, at = begun.pop(event.subject)
            seconds = _between(at, event.at)
            if seconds is not None and 0 <= seconds <= LONGEST_SECONDS:
                seen.setdefault(model, []).append(seconds)
    return {model: statistics.median(values) for model, values in seen.items()}


def _between(first: str, last: str) -> float | None:
    """Seconds between two ISO 8601 times; None where one cannot be read."""
    try:
        gap = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(first)
    except (ValueError, TypeError):
        return None
    return gap.total_seconds()
