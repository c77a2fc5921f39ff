"""What happened and why, written to the store, from anywhere in the controller."""

import logging
from collections.abc import Callable

from partitiond.core.errors import PartitiondError
from partitiond.ports import Clock, Event, Store

log = logging.getLogger("partitiond.events")


class Journal:
    """Appends events. A store that cannot be written must not stop a drain or a stop."""

    def __init__(
        self, store: Store, clock: Clock, happened: Callable[[Event], None] = lambda _: None
    ) -> None:
        self._happened = happened
        self._store = store
        self._clock = clock
        self.problem = ""

    def note(self, kind: str, subject: str, message: str) -> None:
        """Append an event; a failure is kept in `problem` (readiness shows it) and logged."""
        log.info("%s %s: %s", kind, subject, message)
        try:
            event = self._store.add_event(self._clock.utc_iso(), kind, subject, message)
        except PartitiondError as error:
            self.problem = str(error)
            log.error("the event could not be stored: %s", error)
        else:
            self.problem = ""
            self._happened(event)
