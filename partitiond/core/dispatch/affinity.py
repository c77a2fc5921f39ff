"""Remembers which replicas have read the beginning of a prompt, on all hosts.

An engine keeps the KV cache of prompts that it has read (vLLM: blocks by the hash of all tokens up
to their end), so a conversation that returns to its replica saves most of its prefill. What is
remembered here only *prefers*: `balance.choose_replica` drops a preference when the replica has no
room, is not eligible, or is fuller than the least full one by more than `PREFERENCE_SLACK` of its
limit.

The beginnings of a prompt are digested at `ENDS`. Each digest covers all bytes before its end, so
one look-up per end finds the longest beginning that was sent before. Only digests are kept, no
text. The tables are bounded; the least recently used entry is removed first.

Clients reach the hosts in any order, so each host tells the others which beginnings were placed on
its own replicas lately. What peers tell is kept apart from what this host placed: a peer that tells
nonsense fills the space of its own table, attracts requests to its own replicas alone, and only as
far as a preference goes.
"""

import collections
import hashlib
from collections.abc import Container
from typing import Final

ENDS: Final = tuple(
    512 * blocks for blocks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
)
"""Bytes at which a prompt is digested. The first is about 128 tokens of English: shorter beginnings
save less than a step of an engine. From 1 KiB on each is longer by a half or a third: at least two
thirds of the common beginning of two prompts are found, up to 128 KiB. Chosen."""
MAX_ENTRIES: Final = 65_536
"""Of either table: 12 MB, as counted."""
REPLICAS_EACH: Final = 4
"""Replicas remembered per prefix; all replicas soon know a system prompt that all clients send."""
DIGEST_BYTES: Final = 12
MOST_TOLD: Final = 1024
"""Digests that are told of one model at once: 12 KB. Of more, the latest. A host that tells ten
times a second so tells 10,000 beginnings a second. Chosen."""


def prefix_digests(prompt: bytes, ends: tuple[int, ...] = ENDS) -> tuple[bytes, ...]:
    """Return digests of the prompt's beginnings, shortest first.

    Args:
        prompt: its bytes, from the point where prompts of one kind can be equal (of a chat: the
            JSON of its messages).
        ends: lengths of the beginnings, in order; longer ones than the prompt do not count.
    """
    running = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digests = []
    start = 0
    for end in ends:
        if end > len(prompt):
            break
        running.update(prompt[start:end])
        digests.append(running.digest())
        start = end
    return tuple(digests)


def split_digests(joined: bytes, most: int) -> list[bytes]:
    """Cut joined digests apart. Raises ValueError if they are not whole, or more than `most`."""
    if len(joined) % DIGEST_BYTES or len(joined) > most * DIGEST_BYTES:
        raise ValueError("it told what are no digests")
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]


class Prefixes:
    """Beginnings of prompts -> the replicas that have read them, latest first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._replicas: collections.OrderedDict[bytes, tuple[str, ...]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._replicas)

    def matched(self, digests: tuple[bytes, ...]) -> int:
        """Return the number of digests at the beginning that some replica has read."""
        known = self._replicas
        return next((n for n in range(len(digests), 0, -1) if digests[n - 1] in known), 0)

    def prefer(self, digests: tuple[bytes, ...]) -> tuple[str, ...]:
        """Return the replicas with the longest match, latest first, for `choose_replica`."""
        count = self.matched(digests)
        return self._replicas[digests[count - 1]] if count else ()

    def remember(self, digests: tuple[bytes, ...], replica_id: str) -> list[bytes]:
        """Note that a prompt was sent to the replica; return the digests that it had not read yet
        as far as was known, longest first.
        """
        known, new = self._replicas, []
        # From the longest to the shortest, so that the shared, short ones are forgotten last.
        for digest in reversed(digests):
            before = known.get(digest, ())
            if not before or before[0] != replica_id:
                others = [other for other in before if other != replica_id]
                if len(others) == len(before):
                    new.append(digest)
                known[digest] = (replica_id, *others[: REPLICAS_EACH - 1])
            known.move_to_end(digest)
        while len(known) > self._max_entries:
            known.popitem(last=False)
        return new

    def forget_replica(self, replica_id: str) -> None:
        """Forget a replica whose process ended or was replaced: its cache is lost."""
        for digest, replicas in list(self._replicas.items()):
            if replica_id in replicas:
                left = tuple(replica for replica in replicas if replica != replica_id)
                if left:
                    self._replicas[digest] = left
                else:
                    del self._replicas[digest]


class Affinity:
    """The replicas that the requests of one model prefer, as one host knows them."""

    __slots__ = ("_own", "_peers", "_untold")

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._own = Prefixes(max_entries)
        self._peers = Prefixes(max_entries)
        self._untold: dict[bytes, str] | None = None
        """Digest -> own replica that has read it since peers were told; None without peers."""

    def prefer(self, digests: tuple[bytes, ...], own: Container[str]) -> tuple[str, ...]:
        """Return the replicas that have read the longest beginning of a prompt, those of this host
        first.

        Args:
            digests: of the prompt's beginnings (`prefix_digests`).
            own: replicas of this host.
        """
        own_length, peers_length = self._own.matched(digests), self._peers.matched(digests)
        found: tuple[str, ...] = ()
        if own_length >= peers_length:
            found = self._own.prefer(digests)
        if peers_length >= own_length:
            found += self._peers.prefer(digests)
        if len(found) < 2:
            return found
        return tuple(sorted(dict.fromkeys(found), key=lambda replica: replica not in own))

    def remember(self, digests: tuple[bytes, ...], replica_id: str, *, is_own: bool) -> None:
        """Note that a request was sent to a replica.

        Args:
            digests: of the prompt's beginnings.
            replica_id: the replica.
            is_own: the replica is of this host, so the other hosts are told.
        """
        new = self._own.remember(digests, replica_id)
        untold = self._untold
        if not is_own or untold is None:
            return
        for digest in new:
            untold.pop(digest, None)
            untold[digest] = replica_id
        while len(untold) > MOST_TOLD:
            del untold[next(iter(untold))]

    def learn(self, replica_id: str, joined: bytes) -> None:
        """Note the beginnings that a peer placed on one of its replicas.

        Args:
            replica_id: of the peer.
            joined: digests, as of `take_news`.

        Raises:
            ValueError: the digests are not whole, or more than a host tells at once.
        """
        for digest in split_digests(joined, MOST_TOLD):
            self._peers.remember((digest,), replica_id)

    def set_peers(self, *, there_are: bool) -> None:
        """Set whether there are other hosts to tell what is placed on this host's replicas."""
        if there_are != (self._untold is not None):
            self._untold = {} if there_are else None

    def take_news(self) -> dict[str, bytes]:
        """Return what other hosts were not told yet, and forget it: joined digests by replica, in
        the order in which they were placed.
        """
        told: dict[str, list[bytes]] = {}
        if self._untold:
            for digest, replica_id in self._untold.items():
                told.setdefault(replica_id, []).append(digest)
            self._untold = {}
        return {replica_id: b"".join(digests) for replica_id, digests in told.items()}

    def forget_replica(self, replica_id: str) -> None:
        """Forget a replica of this host whose process ended or was replaced: its cache is lost."""
        self._own.forget_replica(replica_id)
