"""Reads from the journal how long engines took to start."""

import collections
import datetime
import statistics
from collections.abc import Iterable, Mapping
from typing import Final

from partitiond.core.events import Event
from partitiond.ports import Store

_STARTING: Final = "engine-starting"
_READY: Final = "engine-ready"
_ENDED: Final = ("engine-failed", "engine-stopped")
_STARTS: Final = "starts "
KEPT_EVENTS: Final = 1000
"""Number of events that are kept: older starts say little of the next one."""
LONGEST_SECONDS: Final = 3600.0
"""A longer gap is a clock that was set, not a start."""


def start_times(events: Iterable[Event]) -> dict[str, float]:
    """Return the median start in seconds, by model.

    A start lasts from the event that an engine starts to the event that it serves. A start does
    not count if the engine failed or was stopped in between.

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


class StartTimes:
    """Keeps `start_times` up to date by reading only the new events of the journal."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = 0
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT_EVENTS)
        self._seconds: Mapping[str, float] = {}

    def seconds(self) -> Mapping[str, float]:
        """Return the median start in seconds, by model."""
        news = self._store.events(after=self._last, limit=KEPT_EVENTS)
        if news:
            self._last = news[-1].id
            kinds = {_STARTING, _READY, *_ENDED}
            told = [event for event in news if event.kind in kinds]
            self._events.extend(told)
            if told:
                self._seconds = start_times(self._events)
        return self._seconds


def _between(first: str, last: str) -> float | None:
    """Return the seconds between two ISO 8601 times; None if one cannot be read."""
    try:
        gap = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(first)
    except (ValueError, TypeError):
        return None
    return gap.total_seconds()
