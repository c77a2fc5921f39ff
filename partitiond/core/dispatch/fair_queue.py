"""Queues the requests of one model: bounded, fair between API keys, without starvation.

**Between keys** the queue does start-time fair queueing for a server of many slots (SFQ(D): Jin,
Chase, Kaur, "Interposed proportional sharing for a storage service utility", 2004), with a
request's cost in tokens as in the virtual token counter of Sheng et al., "Fairness in Serving Large
Language Models" (OSDI 2024). While two keys wait, their service differs by at most one largest
request of each, per weight. The charge is an estimate; `settle` corrects it when a request ends. A
key that returns after it used less than its share is served next, for at most `CREDIT_SHARE` of
what the model's slots hold; more idleness earns nothing.

**Headroom.** A key over its share leaves `HEADROOM_SHARE` of the slots free while other keys are
active, so that a modest key's request finds a slot instead of waiting for the next free one. Its
request that takes a whole replica (as many sequences as the batch, or more) leaves a free slot at
another one, unless requests of other keys wait, whose turn it is not.

**Priorities** are served highest first, with ageing by work instead of by time: a priority that is
passed over earns `AGEING_SHARE` of the tokens that start above it, and its head goes next once it
has earned its cost. A flood of a high priority therefore cannot starve a low one, and a low one's
backlog of any age takes no more than that share from a high one. (Ageing by time would give all.)

**Within a key** the earliest deadline goes first, then first in, first out.

**A request that fits nowhere** while others would (many sequences, a long prompt) is set aside and
may be overtaken by as many tokens as it takes at a time itself. Then it reserves the replica that
is nearest to having room, which takes no other request until this one has started. Other requests
go on. Retries are in the same lane: they were paid for, and come first.

**When it is full**, the queue gives a newcomer the place of the last entry of the key with the most
entries per weight, if the newcomer's key has fewer even then; else the place of a lower priority's
entry, though never a key's only one.

No clock, no randomness. An operation takes O(log n) comparisons and visits each replica and
priority; `ahead` visits each waiting key.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic

from partitiond.core.dispatch.admission import (
    Cost,
    ItemT,
    QueueLimits,
    Rejected,
    RequestOwner,
    Waiting,
    admits,
    refuse_after_waiting,
)
from partitiond.core.dispatch.balance import (
    LoadT,
    LoadView,
    choose_replica,
    is_eligible,
)
from partitiond.core.dispatch.fair_keys import CREDIT_SHARE, FairKeys

MAX_ASIDE: Final = 2
"""Requests set aside at a time. With only one, a second large request would block all others."""
HEADROOM_SHARE: Final = 1 / 32
"""Share of a model's slots, rounded down, that keys over their share leave to the others. Measured
with credit: docs/dispatch.md."""


class FairQueue(Generic[ItemT]):
    """Queues the requests of one model; the module describes the order.

    `max_entries` bounds `push`, and may be changed at any time.
    """

    def __init__(self, max_entries: int = 256, credit_share: float = CREDIT_SHARE) -> None:
        self.max_entries = max_entries
        self.sequences = 0
        self._keys: FairKeys[ItemT] = FairKeys(credit_share)
        self._members: dict[Waiting[ItemT], None] = {}
        # Retries and requests set aside: entry -> tokens that may still overtake the entry.
        self._lane: collections.OrderedDict[Waiting[ItemT], float] = collections.OrderedDict()
        self._aside: set[Waiting[ItemT]] = set()
        # Entries in the lane that were never admitted: their keys pay when they start.
        self._owing: set[Waiting[ItemT]] = set()
        self._reserved: dict[Waiting[ItemT], str] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, entry: object) -> bool:
        return entry in self._members

    def __iter__(self) -> Iterator[Waiting[ItemT]]:
        """Iterate in the order of joining."""
        return iter(self._members)

    def push(self, entry: Waiting[ItemT], *, front: bool = False) -> Waiting[ItemT] | None:
        """Add a request; return the one left without a place: None, another, or `entry` itself.

        The request may be able to start at once although others wait: call `take` next.

        Args:
            front: the request was admitted before (a retry): it is always accepted and goes first.
        """
        displaced = None
        if front:
            self._lane[entry] = entry.overtaken_tokens
            self._lane.move_to_end(entry, last=False)
        else:
            if len(self) >= self.max_entries:
                displaced = self._keys.crowding_out(entry)
                if displaced is None:
                    return entry
                self.discard(displaced)
            self._keys.add(entry)
        self._members[entry] = None
        self.sequences += entry.cost.sequences
        return displaced

    def discard(self, entry: Waiting[ItemT]) -> bool:
        """Remove the entry; False if it was not there any more."""
        if entry not in self._members:
            return False
        if entry in self._keys:
            self._keys.remove(entry)
        elif entry in self._aside:
            self._keys.settle(entry.key, entry.charge, 0.0)
        self._forget(entry)
        return True

    def has_paid(self, entry: Waiting[ItemT]) -> bool:
        """Return whether the entry was admitted before, so that its key gets no refund when it
        leaves.
        """
        return not (entry in self._keys or entry in self._aside or entry in self._owing)

    def let_owe(self, entry: Waiting[ItemT]) -> None:
        """Mark an entry that goes first without being admitted: its key pays when it starts."""
        self._owing.add(entry)

    def take(
        self,
        loads: Iterable[LoadT],
        draw: Callable[[], float],
    ) -> tuple[Waiting[ItemT], LoadT] | None:
        """Remove and charge the next request that may start; return it with its replica, or None.

        Args:
            loads: all replicas of the model.
            draw: returns random numbers in [0, 1).
        """
        room = self._room(loads)
        free = room.free
        passed: list[Waiting[ItemT]] = []
        while free:
            entry = next(itertools.islice(self._lane, len(passed), None), None)
            if entry is None:
                entry = self._set_aside_next(room)
            if entry is None:
                return None
            fitting = [load for load in free if admits(load, entry.cost)]
            chosen = choose_replica(fitting, entry.tried, (draw(), draw()), prefer=entry.prefer)
            if chosen is not None:
                for other in passed:
                    self._lane[other] -= entry.charge
                if entry in self._owing:
                    self.charge(entry.share, entry.charge)
                self._forget(entry)
                return entry, chosen
            passed.append(entry)
            kept = self._reserve(entry, free)
            free = [load for load in free if load.replica_id != kept]
        return None

    def charge(self, share: RequestOwner, tokens: float) -> None:
        """Charge the key for a request that started without waiting, or at another worker."""
        self._keys.charge(share, tokens)

    def settle(self, key: str, charged: float, actual: float) -> None:
        """Correct a request's charge to its actual use; a failed request gets a full refund."""
        self._keys.settle(key, charged, actual)

    def ahead(self, share: RequestOwner, deadline: float = math.inf) -> int:
        """Estimate the sequences that would start before a newcomer, without later arrivals."""
        first = sum(entry.cost.sequences for entry in self._lane)
        return math.ceil(first + self._keys.ahead(share, deadline) - 1e-9)

    def leaves_none(self, key: str, cost: Cost, loads: Iterable[LoadT]) -> bool:
        """Return whether a request that nobody precedes would take the last replica with a free
        slot, which its key, over its share, leaves to others.
        """
        if not (self._keys.is_over_share(key) and self._keys.others_active(key)):
            return False
        return self._room(loads).is_last_for(cost)

    def _room(self, loads: Iterable[LoadT]) -> "_Room[LoadT]":
        room: _Room[LoadT] = _Room()
        for load in loads:
            if is_eligible(load):
                room.add(load)
        self._keys.slots = room.slots
        return room

    def _set_aside_next(self, room: "_Room[LoadT]") -> Waiting[ItemT] | None:
        """Set the next request in the fair order aside, and charge its key."""
        entry = self._keys.next()
        if entry is None or len(self._aside) >= MAX_ASIDE:
            return None
        keys = self._keys
        if keys.is_over_share(entry.key) and keys.others_active(entry.key):
            if room.spare <= math.floor(HEADROOM_SHARE * room.slots):
                return None
            if room.is_last_for(entry.cost) and not keys.others_wait(entry.key):
                return None
        keys.start(entry)
        self._lane[entry] = entry.overtaken_tokens
        self._aside.add(entry)
        return entry

    def _reserve(self, entry: Waiting[ItemT], free: list[LoadT]) -> str:
        """Return the replica reserved for a request that was overtaken enough; "" for none.

        The reservation stays on one replica if possible, or none would ever be empty enough.
        """
        if self._lane[entry] > 0:
            return ""
        names = {load.replica_id: load for load in free if is_eligible(load, entry.tried)}
        kept = self._reserved.get(entry, "")
        if kept not in names:
            kept = min(names, key=lambda name: (_missing(names[name], entry), name), default="")
            self._reserved[entry] = kept
        return kept

    def _forget(self, entry: Waiting[ItemT]) -> None:
        del self._members[entry]
        self._lane.pop(entry, None)
        self._aside.discard(entry)
        self._owing.discard(entry)
        self._reserved.pop(entry, None)
        self.sequences -= entry.cost.sequences


class _Room(Generic[LoadT]):
    """The slots of a model's replicas.

    Attributes:
        free: replicas with a free slot.
        slots: of all replicas.
        spare: free slots of all replicas.
        widest: free slots of the replica that has the most.
        batch: the largest limit of a replica in `free`.
    """

    def __init__(self) -> None:
        self.free: list[LoadT] = []
        self.slots = self.spare = self.widest = self.batch = 0

    def add(self, load: LoadT) -> None:
        """Count a replica."""
        limit = load.max_sequences
        self.slots += limit
        left = max(0, limit - load.sequences)
        if left > 0 or load.sequences == 0:
            self.free.append(load)
            self.spare += left
            self.widest = max(self.widest, left)
            self.batch = max(self.batch, limit)

    def is_last_for(self, cost: Cost) -> bool:
        """Return whether the request takes a whole replica, and no other one has a free slot."""
        return self.batch <= cost.sequences < self.slots and self.spare <= self.widest


def expire(
    queue: FairQueue[ItemT],
    entry: Waiting[ItemT],
    now: float,
    limits: QueueLimits,
    elsewhere: int = 0,
) -> Rejected:
    """Remove a request whose deadline has passed, and answer when the client should retry.

    That is the time at which the request could start if it joined again now: behind all waiting
    requests of its key, since its place is lost, and without a deadline that would overtake them.

    Args:
        now: monotonic seconds.
        elsewhere: sequences that wait in other queues for the same replicas.
    """
    queue.discard(entry)
    ahead = queue.ahead(entry.share)
    return refuse_after_waiting(now - entry.since, elsewhere + ahead, limits)


def _missing(load: LoadView, entry: Waiting[ItemT]) -> float:
    """Load of the replica with the request added, as a share of its limits."""
    sequences = (load.sequences + entry.cost.sequences) / max(1, load.max_sequences)
    if load.kv_cache_tokens <= 0:
        return sequences
    return max(sequences, (load.kv_tokens + entry.cost.kv_tokens) / load.kv_cache_tokens)
