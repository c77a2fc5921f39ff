"""Writes events to the store from anywhere: what happened, why, and who asked for it."""

import collections
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from partitiond.core.errors import PartitiondError
from partitiond.core.events import Event
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Plan
from partitiond.core.plan.replica_changes import replica_changes
from partitiond.ports import Clock
from partitiond.ports.actor import current_actor
from partitiond.store import Store

log = logging.getLogger("partitiond.events")

MOST_CHANGES_TOLD: Final = 200
"""Most changes of one plan that are noted; a thousand of them would not be read."""


MOST_AT_ONCE: Final = 250
"""Most events of one transaction, which takes some tens of milliseconds."""
MOST_UNSAVED: Final = 1000
"""Events kept while the store cannot be written; the oldest are dropped, but are in the log."""


class Journal:
    """Appends events. A store that cannot be written must not stop a drain or a stop.

    Args:
        happened: called with each stored event.
        host_of: returns the host of an event's subject, if that is a device or an engine and there
            are several hosts; else empty.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        happened: Callable[[Event], None] = lambda _: None,
        host_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._happened = happened
        self._host_of = host_of
        self._store = store
        self._clock = clock
        self._unsaved: collections.deque[Event] = collections.deque(maxlen=MOST_UNSAVED)
        self._together = False
        self.problem = ""

    def note(self, kind: str, subject: str, message: str) -> None:
        """Append an event under the name of the actor that is being served now.

        A failure is kept in `problem` (readiness shows it) and logged; `save` tries again.
        """
        actor, host = current_actor(), self._host_of(subject)
        if host:
            message = f"{message} (on {host})"
        log.info("%s %s: %s%s", kind, subject, message, f" ({actor})" if actor else "")
        texts = (_storable(text) for text in (kind, subject, message, actor))
        self._unsaved.append(Event(0, self._clock.utc_iso(), *texts))
        if not self._together:
            self.save()

    @contextlib.contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Store all events of the block at its end, in one transaction: each takes a millisecond.

        Nothing is awaited in the block: what was begun in it goes on once its events are stored.
        """
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self.save()

    def save(self) -> None:
        """Store, in order, events that could not be stored before; called after each pass, too."""
        try:
            while self._unsaved:
                stored = self._store.add_events([*itertools.islice(self._unsaved, MOST_AT_ONCE)])
                for event in stored:
                    self._unsaved.popleft()
                    self._happened(event)
        except PartitiondError as error:
            if str(error) != self.problem:
                log.error("events cannot be stored: %s", error)
            self.problem = str(error)
        else:
            self.problem = ""

    def plan_applied(
        self, new: Plan, old: Plan | None, devices: Sequence[Device], registered: Iterable[str]
    ) -> None:
        """Note an event for each replica that a plan changes, with the plan's id and the reason."""
        changes = replica_changes(new, old, devices=devices, registered=registered)
        left = len(changes) - MOST_CHANGES_TOLD
        with self.one_transaction():
            for change in changes[:MOST_CHANGES_TOLD]:
                self.note(
                    change.kind.value,
                    change.replica_id,
                    f"{new.id}: {change.what}; {change.why.rstrip('.')}.",
                )
            if left > 0:
                told = f"{left} further replicas start, move or stop."
                self.note("replicas-change", new.id, told)


def _storable(text: str) -> str:
    """Return a text that the store accepts: what is no Unicode, as in a damaged file, is escaped.

    An event that the store refuses would hold up all events that come after it.
    """
    return text.encode("utf-8", "backslashreplace").decode()
