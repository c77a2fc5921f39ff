"""Decides which of a model's requests one worker may start, beside those of the other workers.

It implements the rules of `ledger` for a worker that has requests of its own to start.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from partitiond.core.dispatch.admission import Cost, has_slot
from partitiond.core.dispatch.balance import LoadView, is_eligible
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.proxy.dispatch.ledger import ROWS, ROWS_CELL, SlotLedger

TICK_SECONDS: Final = 0.005
"""How long a place is left to a more urgent worker, and how often a worker with waiting requests
looks for places. Together they bound how long a wanted place may stay free: 10 ms. Chosen."""
HOLD_SECONDS: Final = 0.5
"""How long small requests of other workers may overtake a large one. Chosen, not measured."""


class SharedReplica(LoadView, Protocol):
    """A replica with its column of the ledger, and with counts that are brought up to date."""

    column: int
    sequences: int
    kv_tokens: int


ReplicaT = TypeVar("ReplicaT", bound=SharedReplica)


def _nothing(*_: object) -> None:
    """Do nothing: one process alone needs no lock, and wakes nobody."""


class WorkerQueue:
    """One worker's part of one model's queue: what it may start, and its notes for the others.

    Calls marked (locked) are made under the lock of all workers. Call `open_to` before anything is
    started, and `started` while the lock is still held.

    Attributes:
        acquire, release: the lock of all workers.

    Args:
        ledger: of all workers.
        row: of the worker.
        column: of the model.
        acquire, release: see above.
        wake: wakes the worker of a row, so that its waiting requests look again.
    """

    __slots__ = (
        "_asked", "_at", "_freed_at", "_held", "_holder", "_ints", "_kv_at", "_ledger", "_row",
        "_sequences_at", "_waiting_at", "_waits", "_wake", "acquire", "release",
    )  # fmt: skip

    def __init__(
        self,
        ledger: SlotLedger,
        row: int,
        column: int,
        *,
        acquire: Callable[[], object] = _nothing,
        release: Callable[[], object] = _nothing,
        wake: Callable[[int], object] = _nothing,
    ) -> None:
        self.acquire = acquire
        self.release = release
        self._wake = wake
        self._ledger = ledger
        # Addresses that every request uses, computed once.
        self._ints = ledger.ints
        self._sequences_at = ledger.sequences + row
        self._kv_at = ledger.kv_tokens + row
        self._freed_at = ledger.freed + column * ROWS + row
        self._waiting_at = ledger.waiting + column * ROWS
        self._row = row
        self._at = column * ROWS
        self._asked: dict[int, tuple[int, float]] = {}
        """Row -> (up to where it had looked when it was first waited for, the wait's deadline)."""
        self._held = -1
        self._holder: object = None
        self._waits = False

    # Places

    def started(self, column: int, cost: Cost) -> None:
        """Count a request that starts on the replica of this column (locked)."""
        ints, at = self._ints, column * ROWS
        ints[self._sequences_at + at] += cost.sequences
        ints[self._kv_at + at] += cost.kv_tokens

    def ended(self, column: int, cost: Cost) -> None:
        """Count a request that has left. In this order, a worker that sees `freed` sees it free.

        A processor that shows writes out of order (ARM) may show the place as taken a moment more.
        A worker that looks then looks again within TICK_SECONDS while one of its requests waits.
        """
        ints, at = self._ints, column * ROWS
        ints[self._kv_at + at] -= cost.kv_tokens
        ints[self._sequences_at + at] -= cost.sequences
        ints[self._freed_at] += 1

    def refresh(self, places: Iterable[ReplicaT]) -> None:
        """Update the places with what all workers have in flight there (locked, for deciding)."""
        ledger = self._ledger
        for place in places:
            place.sequences, place.kv_tokens = ledger.in_flight(place.column)

    def open_to(
        self, places: Sequence[ReplicaT], urgency: float, now: float
    ) -> tuple[Sequence[ReplicaT], bool]:
        """Return (places for a request of this urgency, whether it must yield for now) (locked).

        Args:
            urgency: the least goes first, as in `FairQueue.urgency`.
            now: monotonic seconds.
        """
        self.refresh(places)
        others = self._others(urgency) if self.others_wait() else []
        if not others:
            self._asked.clear()
            return places, False
        freed = self._freed()
        answering = [row for row in others if self._is_waited_for(row, freed, now)]
        if answering and sum(_free(place) for place in places) <= len(answering):
            return (), True
        waited_for = set(answering)
        holders = [row for row in others if row in waited_for or self._has_looked(row, freed)]
        return [p for p in places if not self._is_held(p, holders, waited_for)], False

    def _is_held(
        self, place: SharedReplica, holders: Sequence[int], waited_for: Collection[int]
    ) -> bool:
        """Whether one of these workers holds the place for its oldest request.

        A hold on an empty place no longer counts once its holder has looked and declined it.
        """
        ledger = self._ledger
        return any(
            ledger.ints[ledger.holds + place.column * ROWS + row]
            for row in holders
            if place.sequences or row in waited_for
        )

    def _is_waited_for(self, row: int, freed: int, now: float) -> bool:
        """Whether a place is left to this worker: it has not looked, and its time is not over."""
        ledger = self._ledger
        looked = ledger.ints[ledger.looked + self._at + row]
        if looked >= freed:
            return False
        asked = self._asked.get(row)
        if asked is None or asked[0] != looked:
            self._asked[row] = (looked, now + TICK_SECONDS)
            return True
        return now < asked[1]

    def _has_looked(self, row: int, freed: int) -> bool:
        ledger = self._ledger
        return ledger.ints[ledger.looked + self._at + row] >= freed

    def _freed(self) -> int:
        ledger = self._ledger
        at = ledger.freed + self._at
        return sum(ledger.ints[at : at + ledger.rows])

    # Waiting

    def publish(self, queue: FairQueue[Any]) -> None:
        """Publish what waits in this worker."""
        if queue:
            self.waits(len(queue), queue.sequences, queue.urgency())
        elif self._waits:
            self.hold(-1, None)
            self.waits(0, 0, None)
            self._waits = False

    def waits(self, entries: int, sequences: int, urgency: float | None) -> None:
        """Publish how many requests wait in this worker, and the urgency of the next of them."""
        self._waits = True
        ledger, at = self._ledger, self._at + self._row
        ledger.floats[ledger.urgency + at] = math.inf if urgency is None else urgency
        ledger.ints[ledger.waiting_sequences + at] = sequences
        ledger.ints[ledger.waiting + at] = entries

    def others_wait(self) -> bool:
        """Whether any request waits in another worker."""
        ints, at = self._ints, self._waiting_at
        return sum(ints[at : at + ints[ROWS_CELL]]) != ints[at + self._row]

    def waiting_elsewhere(self) -> tuple[int, int]:
        """(requests, sequences) that wait in the other workers."""
        ledger, at, row = self._ledger, self._at, self._row
        ints, rows = ledger.ints, ledger.rows
        entries, sequences = ledger.waiting + at, ledger.waiting_sequences + at
        return (
            sum(ints[entries : entries + rows]) - ints[entries + row],
            sum(ints[sequences : sequences + rows]) - ints[sequences + row],
        )

    def looked(self) -> None:
        """Note that this worker has started all requests that it may or wants to (locked)."""
        ledger = self._ledger
        ledger.ints[ledger.looked + self._at + self._row] = self._freed()

    def wake_next(self, places: Collection[ReplicaT]) -> None:
        """Wake the most urgent worker that has not looked, if this worker leaves a slot free."""
        if not self.others_wait():
            return
        freed = self._freed()
        ledger = self._ledger
        rows = [row for row in self._others(math.inf) if not self._has_looked(row, freed)]
        if not rows:
            return
        self.refresh(places)
        if any(_free(place) for place in places):
            self._wake(min(rows, key=lambda row: ledger.floats[ledger.urgency + self._at + row]))

    def _others(self, urgency: float) -> list[int]:
        """Rows of other workers whose heads are more urgent than `urgency`."""
        ledger, at = self._ledger, self._at
        return [
            row
            for row in range(ledger.rows)
            if row != self._row
            and ledger.ints[ledger.waiting + at + row]
            and ledger.floats[ledger.urgency + at + row] < urgency
        ]

    # Holding

    def hold(self, column: int, request: object) -> None:
        """Hold a replica, by its column, for a request: no worker may start a less urgent one
        there; -1 for none. A request keeps its hold even while the replica is full again.
        """
        if column == self._held or (column < 0 and request is self._holder):
            return
        self._holder = request
        ledger = self._ledger
        if self._held >= 0:
            ledger.ints[ledger.holds + self._held * ROWS + self._row] = 0
        if column >= 0:
            ledger.ints[ledger.holds + column * ROWS + self._row] = 1
        self._held = column


def replica_to_hold(
    places: Iterable[SharedReplica], tried: frozenset[str], since: float, now: float
) -> int:
    """Return the column of the replica for the oldest request to hold; -1 for none: the request has
    not waited long, or no replica has a free slot.

    Args:
        places: with the sequences of all workers.
        tried: replicas that the request must avoid.
        since: when the request joined.
    """
    if now - since < HOLD_SECONDS:
        return -1
    room = [place for place in places if is_eligible(place, tried) and has_slot(place)]
    if not room:
        return -1
    return min(room, key=_fullness).column


def _fullness(place: SharedReplica) -> float:
    tokens = place.kv_tokens / place.kv_cache_tokens if place.kv_cache_tokens > 0 else 0.0
    return max(place.sequences / max(1, place.max_sequences), tokens)


def _free(place: SharedReplica) -> int:
    """Number of free places for single sequences."""
    if not is_eligible(place):
        return 0
    return max(place.max_sequences - place.sequences, int(place.sequences == 0))
