"""Keeps how long engines took to start, by model, in the store."""

import dataclasses
import logging
import statistics
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import PartitiondError
from partitiond.ports import Clock
from partitiond.serde import from_stored_json, to_stored_json
from partitiond.store import Store

log = logging.getLogger(__name__)

MARK: Final = "start-seconds"
"""Kind of the marks that hold the last starts of a model."""
KEPT_STARTS: Final = 9
"""Starts of a model that are kept. Chosen: older ones say little of the next one."""


@dataclasses.dataclass(frozen=True, slots=True)
class LastStarts:
    """The last starts of a model: their seconds, the newest last."""

    seconds: tuple[float, ...] = ()


class StartTimes:
    """What was measured of starts; all over one store have the same."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: tuple[Mapping[str, str], Mapping[str, float]] = {}, {}

    def note(self, model: str, seconds: float, clock: Clock) -> None:
        """Keep how long a start of the model took, from its beginning until the engine served."""
        try:
            known = _seconds_of(self._store.marks(MARK).get(model, ""))
            kept = LastStarts((*known, round(seconds, 3))[-KEPT_STARTS:])
            self._store.set_mark(MARK, model, to_stored_json(kept), clock.utc_iso())
        except PartitiondError as error:  # of a store that refuses: no start depends on it
            log.warning("how long %s took to start is not kept: %s", model, error)

    def seconds(self) -> Mapping[str, float]:
        """Return the median start in seconds, by model."""
        marks = self._store.marks(MARK)  # the same object until one changes: each pass asks
        if marks is not self._read[0]:
            kept = {model: _seconds_of(text) for model, text in marks.items()}
            medians = {model: statistics.median(found) for model, found in kept.items() if found}
            self._read = marks, medians
        return self._read[1]


def _seconds_of(text: str) -> tuple[float, ...]:
    try:
        return from_stored_json(LastStarts, text).seconds
    except PartitiondError:  # there is none yet, or another release wrote it
        return ()
