"""One worker's side of one model's line: what it may start, and what it tells the others.

The rules of `ledger`, for a worker that has requests of its own to start.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from partitiond.core.admission import Cost, has_slot
from partitiond.core.balance import is_eligible
from partitiond.proxy.ledger import ROWS, ROWS_CELL, Ledger

TICK_SECONDS: Final = 0.005
"""How long a place is left to a more urgent worker, and how often one with waiters looks. Both
together are the longest that a place stays free while somebody wants it: 10 ms."""
HOLD_SECONDS: Final = 0.5
"""Small requests of other workers may overtake a large one for so long."""


class Place(Protocol):
    """What is read of a replica; `balance.Load`, and where it stands here."""

    replica_id: str
    seat: int
    sequences: int
    kv_tokens: int
    max_sequences: int
    kv_cache_tokens: int
    draining: bool
    ejected: bool


PlaceT = TypeVar("PlaceT", bound=Place)


class Line:
    """One worker's side of one model: what it may start, and what it tells the others.

    Calls marked (locked) are made under the lock of all workers, `open_to` before anything is
    started, with `took` in the same stretch.
    """

    __slots__ = (
        "_asked", "_at", "_given_at", "_held", "_holder", "_ints", "_kv_at", "_ledger", "_row",
        "_sequences_at", "_waiting_at", "_waits",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, row: int, line: int) -> None:
        self._ledger = ledger
        # What every request touches, at hand.
        self._ints = ledger.ints
        self._sequences_at = ledger.sequences + row
        self._kv_at = ledger.kv_tokens + row
        self._given_at = ledger.given + line * ROWS + row
        self._waiting_at = ledger.waiting + line * ROWS
        self._row = row
        self._at = line * ROWS
        self._asked: dict[int, tuple[int, float]] = {}
        """Row -> (up to where it had looked when it was asked, how long it is waited for)."""
        self._held = -1
        self._holder: object = None
        self._waits = False

    # Places

    def took(self, seat: int, cost: Cost) -> None:
        """A request starts there (locked)."""
        ints, at = self._ints, seat * ROWS
        ints[self._sequences_at + at] += cost.sequences
        ints[self._kv_at + at] += cost.kv_tokens

    def gave(self, seat: int, cost: Cost) -> None:
        """It has left. In this order: who sees that something was given sees it free.

        A processor that shows writes out of order (ARM) may show the place as taken for a moment
        more. Who looked in that moment looks again within TICK_SECONDS while somebody waits there.
        """
        ints, at = self._ints, seat * ROWS
        ints[self._kv_at + at] -= cost.kv_tokens
        ints[self._sequences_at + at] -= cost.sequences
        ints[self._given_at] += 1

    def refresh(self, places: Iterable[PlaceT]) -> None:
        """Let them say what all workers have in flight there (locked, for deciding)."""
        ledger = self._ledger
        for place in places:
            place.sequences, place.kv_tokens = ledger.in_flight(place.seat)

    def open_to(
        self, places: Sequence[PlaceT], urgency: float, now: float
    ) -> tuple[Sequence[PlaceT], bool]:
        """(where a request so urgent may go, whether none for now is for others' sake) (locked).

        Args:
            urgency: the least first, as `FairQueue.urgency`.
            now: monotonic seconds.
        """
        self.refresh(places)
        others = self._others(urgency) if self.others_wait() else []
        if not others:
            self._asked.clear()
            return places, False
        given = self._given()
        answering = [row for row in others if self._is_waited_for(row, given, now)]
        if answering and sum(_free(place) for place in places) <= len(answering):
            return (), True
        waited_for = set(answering)
        holders = [row for row in others if row in waited_for or self._has_looked(row, given)]
        return [p for p in places if not self._is_held(p, holders, waited_for)], False

    def _is_held(self, place: Place, holders: Sequence[int], waited_for: Collection[int]) -> bool:
        """Whether one of these keeps it for its oldest request.

        Of one that is empty its holder has only to be told: if it has looked, it does not want it.
        """
        ledger = self._ledger
        return any(
            ledger.ints[ledger.holds + place.seat * ROWS + row]
            for row in holders
            if place.sequences or row in waited_for
        )

    def _is_waited_for(self, row: int, given: int, now: float) -> bool:
        """Whether a place is left to it: it has not looked, and has not had the time to."""
        ledger = self._ledger
        looked = ledger.ints[ledger.looked + self._at + row]
        if looked >= given:
            return False
        asked = self._asked.get(row)
        if asked is None or asked[0] != looked:
            self._asked[row] = (looked, now + TICK_SECONDS)
            return True
        return now < asked[1]

    def _has_looked(self, row: int, given: int) -> bool:
        ledger = self._ledger
        return ledger.ints[ledger.looked + self._at + row] >= given

    def _given(self) -> int:
        ledger = self._ledger
        at = ledger.given + self._at
        return sum(ledger.ints[at : at + ledger.rows])

    # Waiting

    def waits(self, entries: int, sequences: int, urgency: float | None) -> None:
        """How many wait in this worker, and how urgent the next of them is."""
        self._waits = True
        ledger, at = self._ledger, self._at + self._row
        ledger.floats[ledger.urgency + at] = math.inf if urgency is None else urgency
        ledger.ints[ledger.waiting_sequences + at] = sequences
        ledger.ints[ledger.waiting + at] = entries

    def waits_no_more(self) -> None:
        """Nobody waits in this worker."""
        if self._waits:
            self.hold(-1, None)
            self.waits(0, 0, None)
            self._waits = False

    def others_wait(self) -> bool:
        """Whether anybody waits elsewhere."""
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
        """It has started all that it may, or wants to (locked)."""
        ledger = self._ledger
        ledger.ints[ledger.looked + self._at + self._row] = self._given()

    def next_in_line(self, places: Collection[PlaceT]) -> int | None:
        """The row whose worker should look: the most urgent that has not, while there is room."""
        if not self.others_wait():
            return None
        given = self._given()
        ledger = self._ledger
        rows = [row for row in self._others(math.inf) if not self._has_looked(row, given)]
        if not rows:
            return None
        self.refresh(places)
        if not any(_free(place) for place in places):
            return None
        return min(rows, key=lambda row: ledger.floats[ledger.urgency + self._at + row])

    def _others(self, urgency: float) -> list[int]:
        """Rows of other workers whose heads are more urgent than that."""
        ledger, at = self._ledger, self._at
        return [
            row
            for row in range(ledger.rows)
            if row != self._row
            and ledger.ints[ledger.waiting + at + row]
            and ledger.floats[ledger.urgency + at + row] < urgency
        ]

    # Holding

    def hold(self, seat: int, whom: object) -> None:
        """For `whom`, take nothing less urgent there, all of you; -1 for nowhere.

        Once it holds one it keeps it, also while that is full again.
        """
        if seat == self._held or (seat < 0 and whom is self._holder):
            return
        self._holder = whom
        ledger = self._ledger
        if self._held >= 0:
            ledger.ints[ledger.holds + self._held * ROWS + self._row] = 0
        if seat >= 0:
            ledger.ints[ledger.holds + seat * ROWS + self._row] = 1
        self._held = seat


def seat_to_hold(places: Iterable[Place], tried: frozenset[str], since: float, now: float) -> int:
    """Where the oldest request holds a replica: it waits although there are free places; else -1.

    Args:
        places: with all workers' sequences.
        tried: replicas that it must avoid.
        since: when it joined.
    """
    if now - since < HOLD_SECONDS:
        return -1
    room = [place for place in places if is_eligible(place, tried) and has_slot(place)]
    if not room:
        return -1
    return min(room, key=_fullness).seat


def _fullness(place: Place) -> float:
    tokens = place.kv_tokens / place.kv_cache_tokens if place.kv_cache_tokens > 0 else 0.0
    return max(place.sequences / max(1, place.max_sequences), tokens)


def _free(place: Place) -> int:
    """Places for single sequences."""
    if not is_eligible(place):
        return 0
    return max(place.max_sequences - place.sequences, int(place.sequences == 0))
