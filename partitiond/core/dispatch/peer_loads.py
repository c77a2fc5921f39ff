"""Keeps the counts of one model at one peer: what the peer told, and what was sent there since.

A host's counts are as old as its last message. The host that chooses adds the requests that it has
sent to the peer and that are not in the peer's counts yet, so that its own requests never look like
free places. Requests that other hosts sent meanwhile are unknown. Therefore counts are only good
for choosing: the peer, which owns its replicas, admits each request itself, or lets it wait.

Counts come over the network, from a peer that may be broken. Each is brought into its bounds, so
that nonsense harms no request but those that are sent to this peer.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.dispatch.admission import Cost
from partitiond.core.dispatch.balance import LoadView, ReplicaLoad, is_eligible

TELL_SECONDS: Final = 0.1
"""Counts are told at most so often, and as a heartbeat at least so often. Chosen."""
FRESH_SECONDS: Final = 0.2
"""Age up to which counts are fresh: one message may be missed or late. Chosen."""
SILENT_SECONDS: Final = 2.0
"""Age from which a peer gets no requests: a host that tells nothing for so long most likely answers
nothing either. Chosen."""
SETTLE_SECONDS: Final = 0.05
"""How long a request that was sent to a peer is on its way: counts that came sooner may not contain
it, and until then it is taken to have started there. Chosen: a peer says so within milliseconds."""
MOST: Final = 1 << 40
"""Bound of a told count: more than any machine has, and exact as a float. Chosen so."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerCounts:
    """What a host tells a peer about one model.

    Attributes:
        replicas: all of the host's replicas of the model.
        waiting: requests in the host's queue.
        waiting_sequences: sequences of these requests.
        service_seconds: mean stay of a sequence in an engine.
    """

    replicas: Sequence[LoadView]
    waiting: int = 0
    waiting_sequences: int = 0
    service_seconds: float = 1.0


class _Sent:
    """A request that is not in the peer's counts yet."""

    __slots__ = ("at", "cost", "replica_id")

    def __init__(self, cost: Cost, at: float, replica_id: str) -> None:
        self.cost = cost
        self.at = at
        self.replica_id = replica_id


class PeerLoads:
    """One model at one peer; the module describes it.

    Each time that the peer is heard again begins with a new object.

    Attributes:
        host: name of the peer.
        max_waiting: requests that the peer's queue takes (`fleet.QueueShares`), by the routing
            table and not by the peer's word.
        replicas: by id.
        waiting: requests that wait there.
        waiting_sequences: sequences of these requests.
        service_seconds: mean stay of a sequence; infinite if it was told as no time.
        told_at: when the last counts came, monotonic seconds; minus infinity before the first.
        full: the peer refused a request after these counts: it gets none until it tells new ones.
    """

    __slots__ = (
        "_sent", "full", "host", "max_waiting", "replicas", "service_seconds", "told_at", "waiting",
        "waiting_sequences",
    )  # fmt: skip

    def __init__(self, host: str, max_waiting: int = 0) -> None:
        self.host = host
        self.max_waiting = max_waiting
        self.replicas: dict[str, ReplicaLoad] = {}
        self.waiting = 0
        self.waiting_sequences = 0
        self.service_seconds = math.inf
        self.told_at = -math.inf
        self.full = False
        self._sent: dict[object, _Sent] = {}

    def take_over(self, counts: PeerCounts, now: float) -> None:
        """Replace the counts by newer ones, and add the requests that these may not contain yet.

        Args:
            counts: as told; of one connection, in the order of sending.
            now: when they came, monotonic seconds.
        """
        self.replicas = {told.replica_id: copied(told) for told in counts.replicas}
        self.waiting = _count(counts.waiting)
        self.waiting_sequences = _count(counts.waiting_sequences)
        seconds = counts.service_seconds
        self.service_seconds = seconds if 0.0 < seconds < math.inf else math.inf
        self.told_at = now
        self.full = False
        if self._sent:
            since = now - SETTLE_SECONDS
            self._sent = {key: sent for key, sent in self._sent.items() if sent.at > since}
            for sent in self._sent.values():
                self._add(sent, 1)

    def sent(self, key: object, cost: Cost, now: float, replica_id: str = "") -> None:
        """Count a request that is sent to the peer.

        Args:
            key: of the request, by which it ends.
            cost: what it takes.
            now: monotonic seconds.
            replica_id: where it should start; empty if it is expected to wait.
        """
        sent = _Sent(cost, now, replica_id)
        self._sent[key] = sent
        self._add(sent, 1)

    def ended(self, key: object) -> None:
        """Note that a request has ended there or left. If it was in the peer's counts, only newer
        counts show its place as free: nobody can tell which of the two messages was sent first.
        """
        sent = self._sent.pop(key, None)
        if sent is not None:
            self._add(sent, -1)

    def refused(self, key: object) -> None:
        """Note that the peer answered "full": it gets no request until it tells new counts."""
        self.ended(key)
        self.full = True

    def is_fresh(self, now: float) -> bool:
        """Return whether the counts are young enough to be preferred to older ones."""
        return now - self.told_at <= FRESH_SECONDS

    def is_silent(self, now: float) -> bool:
        """Return whether the peer has told nothing for so long that it gets no requests."""
        return not now - self.told_at <= SILENT_SECONDS

    def sequences_in_flight(self) -> int:
        """Return sequences in flight on the replicas that admit requests or drain."""
        return sum([replica.sequences for replica in self.replicas.values()])

    def free_sequences(self) -> int:
        """Return the free places for single sequences, KV tokens aside."""
        free = 0
        for replica in self.replicas.values():
            if is_eligible(replica):
                empty = 1 if replica.sequences == 0 else 0
                free += max(replica.max_sequences - replica.sequences, empty)
        return free

    def _add(self, sent: _Sent, sign: int) -> None:
        """Add the request to the counts, or take it out again."""
        sequences = sign * sent.cost.sequences
        replica = self.replicas.get(sent.replica_id)
        if replica is not None:
            replica.sequences += sequences
            replica.kv_tokens += sign * sent.cost.kv_tokens
        else:
            self.waiting += sign
            self.waiting_sequences += sequences


def copied(load: LoadView) -> ReplicaLoad:
    """Return a replica's load with its counts within bounds, to add to what was sent since."""
    return ReplicaLoad(
        load.replica_id,
        _count(load.sequences),
        _limit(load.max_sequences),
        _count(load.kv_tokens),
        _limit(load.kv_cache_tokens),
        bool(load.draining),
        bool(load.ejected),
        min(_count(load.doubt), 2),
    )


def _count(told: float) -> int:
    """Return a told count within bounds. What is no number counts as the most: as full."""
    if not told <= MOST:
        return MOST
    return int(told) if told > 0 else 0


def _limit(told: float) -> int:
    """Return a told limit within bounds. What is no number counts as 0."""
    return int(min(told, MOST)) if told > 0 else 0
