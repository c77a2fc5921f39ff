"""Decides which of a model's requests one worker may start, beside those of the other workers.

It implements the rules of `ledger` for a worker that has requests of its own to start.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from partitiond.core.dispatch.admission import Cost, admits, has_slot
from partitiond.core.dispatch.balance import LoadView, is_eligible
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.core.dispatch.pace import FORGET_SECONDS, Pace
from partitiond.proxy.dispatch.ledger import ROWS, ROWS_CELL, SlotLedger

TICK_SECONDS: Final = 0.005
"""How often a worker with waiting requests looks for slots: so long one that was left to it may
stay free. Chosen."""
HOLD_SECONDS: Final = 0.5
"""How long small requests of other workers may overtake a large one. Chosen, not measured."""


ANSWER_SECONDS: Final = 0.1
"""A worker that has not looked for so long leaves its turn: it is stopped, hangs or is busy.
Chosen, many ticks."""


class SharedReplica(LoadView, Protocol):
    """A replica with its column of the ledger, and with counts that are brought up to date."""

    column: int
    sequences: int
    kv_tokens: int
    pace: Pace


ReplicaT = TypeVar("ReplicaT", bound=SharedReplica)


def _nothing() -> None:
    """Do nothing: one process alone needs no lock."""


class WorkerQueue:
    """One worker's part of one model's queue: what it may start, and its notes for the others.

    Calls marked (locked) are made under the lock of all workers. Call `open_places` before anything
    is started, and `started` while the lock is still held.

    Attributes:
        acquire, release: the lock of all workers.

    Args:
        ledger: of all workers.
        row: of the worker.
        column: of the model.
        acquire, release: see above.
    """

    __slots__ = (
        "_at", "_held", "_holder", "_ints", "_kv_at", "_ledger", "_row", "_sequences_at",
        "_turns_at", "_waiting_at", "_waits", "acquire", "release",
    )  # fmt: skip

    def __init__(
        self,
        ledger: SlotLedger,
        row: int,
        column: int,
        *,
        acquire: Callable[[], object] = _nothing,
        release: Callable[[], object] = _nothing,
    ) -> None:
        self.acquire = acquire
        self.release = release
        self._ledger = ledger
        # Addresses that every request uses, computed once.
        self._ints = ledger.ints
        self._sequences_at = ledger.sequences + row
        self._kv_at = ledger.kv_tokens + row
        self._waiting_at = ledger.waiting + column * ROWS
        self._turns_at = ledger.turns + column * ROWS
        self._row = row
        self._at = column * ROWS
        self._held = -1
        self._holder: object = None
        self._waits = False

    # Slots

    def started(self, column: int, cost: Cost) -> None:
        """Count a request that starts on the replica of this column (locked)."""
        ints, at = self._ints, column * ROWS
        ints[self._sequences_at + at] += cost.sequences
        ints[self._kv_at + at] += cost.kv_tokens
        turns = self._turns_at
        ints[turns + self._row] = 1 + max(ints[turns : turns + ints[ROWS_CELL]])

    def ended(self, column: int, cost: Cost) -> None:
        """Count a request that has left."""
        ints, at = self._ints, column * ROWS
        ints[self._kv_at + at] -= cost.kv_tokens
        ints[self._sequences_at + at] -= cost.sequences

    def refresh(self, replicas: Iterable[ReplicaT]) -> None:
        """Update the replicas with what all workers have in flight there and learned of them
        (locked, for deciding).
        """
        ledger, now = self._ledger, time.monotonic()
        since = int(1000 * max(0.0, now - FORGET_SECONDS))
        for replica in replicas:
            replica.sequences, replica.kv_tokens = ledger.in_flight(replica.column)
            if replica.pace.is_bounded:
                unread_tokens, limit = ledger.pace_of_others(self._row, replica.column, since)
                replica.pace.learn_from_others(unread_tokens, limit, now)

    def tell_unread(self, column: int, tokens: int) -> None:
        """Tell the other workers the tokens of the prompts that this one has sent to a replica, by
        its column, and whose first token has not come.
        """
        self._ints[self._ledger.unread + column * ROWS + self._row] = tokens

    def tell_limit(self, column: int, limit: int, now: float) -> None:
        """Tell the other workers how many sequences may be in flight on a replica, by its column,
        as this one has found now (monotonic seconds); 0 if there is no limit but the planned one.
        """
        self._ledger.put_limit(self._row, column, limit, int(1000 * now))

    def open_places(self, replicas: Sequence[ReplicaT]) -> Sequence[ReplicaT]:
        """Return the replicas on which this worker may start a request now (locked).

        A slot is left for each other worker that wants one and comes first: that has fewer
        sequences in flight than this one, or as many and started one longer ago. None is left for
        one that has not looked lately.
        """
        self.refresh(replicas)
        if not self.others_wait():
            return replicas
        own = self._turn(self._row, replicas)
        ledger, wants = self._ledger, self._ledger.wants + self._at
        since = _milliseconds() - int(1000 * ANSWER_SECONDS)
        first = [
            row
            for row in range(ledger.rows)
            if row != self._row
            and ledger.ints[wants + row] >= since
            and self._turn(row, replicas) < own
        ]
        if first and free_slots(replicas) <= len(first):
            return ()
        return [replica for replica in replicas if not self._is_held(replica)]

    def _turn(self, row: int, replicas: Iterable[ReplicaT]) -> tuple[int, int, int]:
        """Return what orders the workers: the least goes first."""
        ledger, at = self._ledger, self._ledger.sequences + row
        in_flight = sum(ledger.ints[at + replica.column * ROWS] for replica in replicas)
        return in_flight, ledger.ints[self._turns_at + row], row

    # Waiting

    def publish(self, queue: FairQueue[Any], *, wants: bool = True) -> None:
        """Publish what waits in this worker.

        Args:
            queue: of this worker.
            wants: its requests would start if there were a slot; else a slot needs not be left.
        """
        self.waits(len(queue), queue.sequences, wants=wants and bool(queue))

    def rest(self) -> None:
        """Note that no request waits in this worker; harmless if that is known."""
        if self._waits:
            self._give_back()
            self.waits(0, 0, wants=False)

    def waits(self, entries: int, sequences: int, *, wants: bool) -> None:
        """Publish how many requests wait in this worker; `wants` as of `publish`."""
        self._waits = entries > 0
        ledger, at = self._ledger, self._at + self._row
        ledger.ints[ledger.wants + at] = _milliseconds() if wants else 0
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

    # Holding

    def hold(self, queue: FairQueue[Any], replicas: Sequence[ReplicaT], now: float) -> None:
        """Hold a replica for the oldest request if it has waited for long and needs more than the
        slot that is free: no other worker starts one there (locked).
        """
        oldest = next(iter(queue), None)
        is_kept = any(replica.column == self._held for replica in replicas)
        if oldest is not None and oldest is self._holder and is_kept:
            return
        self._give_back()
        if oldest is None or now - oldest.since < HOLD_SECONDS:
            return
        eligible = [replica for replica in replicas if is_eligible(replica, oldest.tried)]
        is_large = any(has_slot(replica) for replica in eligible)
        if not is_large or any(admits(replica, oldest.cost) for replica in eligible):
            return
        room = [replica for replica in eligible if not self._is_held(replica)]
        if room:
            self._held, self._holder = min(room, key=_fullness).column, oldest
            self._ledger.ints[self._ledger.holds + self._held * ROWS + self._row] = 1

    def _give_back(self) -> None:
        if self._held >= 0:
            self._ledger.ints[self._ledger.holds + self._held * ROWS + self._row] = 0
        self._held, self._holder = -1, None

    def _is_held(self, replica: SharedReplica) -> bool:
        """Whether another worker holds the replica."""
        ints, at = self._ints, self._ledger.holds + replica.column * ROWS
        return sum(ints[at : at + ints[ROWS_CELL]]) != ints[at + self._row]


def _milliseconds() -> int:
    """Return the time of the monotonic clock, which all workers share; never 0."""
    return 1 + int(1000 * time.monotonic())


def free_slots(replicas: Iterable[LoadView]) -> int:
    """Return the number of free slots for single sequences."""
    return sum(
        max(replica.max_sequences - replica.sequences, int(replica.sequences == 0))
        for replica in replicas
        if is_eligible(replica)
    )


def _fullness(replica: SharedReplica) -> float:
    tokens = replica.kv_tokens / replica.kv_cache_tokens if replica.kv_cache_tokens > 0 else 0.0
    return max(replica.sequences / max(1, replica.max_sequences), tokens)
