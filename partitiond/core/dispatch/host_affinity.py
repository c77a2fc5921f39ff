"""Remembers the replicas that requests prefer on all hosts, of which each host tells its own.

Clients reach the hosts in any order, so the host that gets the next request of a conversation is
often not the one that got the last. Each host tells the others which sessions and beginnings of
prompts (`core.dispatch.affinity`) were placed on its own replicas lately, and each host looks for a
request's replica in what it placed itself and in what it was told.

What peers tell is kept apart from what this host placed, and is bounded: a peer that tells nonsense
fills its own tables' space, attracts requests to its own replicas alone, and only as far as a
preference goes (`balance.PREFERENCE_SLACK`).
"""

from collections.abc import Container
from typing import Final

from partitiond.core.dispatch.affinity import (
    DIGEST_BYTES,
    MAX_ENTRIES,
    Prefixes,
    SessionAffinity,
)

MOST_TOLD: Final = 1024
"""Sessions, and blocks, that are told of one model at once: 24 KB. Of more, the latest. A host that
tells ten times a second so tells 10,000 placements a second. Chosen."""


class PlacedLately:
    """The sessions and blocks that were placed on this host's replicas since they were told."""

    __slots__ = ("_blocks", "_most", "_sessions")

    def __init__(self, most: int = MOST_TOLD) -> None:
        self._most = most
        self._sessions: dict[bytes, str] = {}
        self._blocks: dict[bytes, str] = {}

    def placed(self, session: bytes, blocks: list[bytes], replica_id: str) -> None:
        """Note a placement.

        Args:
            session: digest of its session, or empty.
            blocks: that are new to the replica, longest first.
            replica_id: of this host.
        """
        if session:
            self._note(self._sessions, session, replica_id)
        for block in blocks:
            self._note(self._blocks, block, replica_id)

    def take(self) -> dict[str, tuple[bytes, bytes]]:
        """Return what to tell, and forget it: joined digests of sessions and of blocks, by replica,
        in the order in which they were placed.
        """
        told: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for session, replica_id in self._sessions.items():
            told.setdefault(replica_id, ([], []))[0].append(session)
        for block, replica_id in self._blocks.items():
            told.setdefault(replica_id, ([], []))[1].append(block)
        self._sessions, self._blocks = {}, {}
        return {name: (b"".join(one), b"".join(two)) for name, (one, two) in told.items()}

    def _note(self, kept: dict[bytes, str], digest: bytes, replica_id: str) -> None:
        kept.pop(digest, None)
        kept[digest] = replica_id
        if len(kept) > self._most:
            del kept[next(iter(kept))]


class HostAffinity:
    """What one host knows of the replicas that the requests of one model prefer.

    Attributes:
        lately: what to tell other hosts; None while there are none.
    """

    __slots__ = (
        "_own_prefixes", "_own_sessions", "_told_prefixes", "_told_sessions", "lately",
    )  # fmt: skip

    def __init__(self, seconds: float = 600.0, max_entries: int = MAX_ENTRIES) -> None:
        self._own_sessions = SessionAffinity(seconds, max_entries)
        self._own_prefixes = Prefixes(max_entries)
        self._told_sessions = SessionAffinity(seconds, max_entries)
        self._told_prefixes = Prefixes(max_entries)
        self.lately: PlacedLately | None = None

    def prefer(
        self, session: bytes, blocks: tuple[bytes, ...], now: float, here: Container[str]
    ) -> tuple[str, ...]:
        """Return the replicas that a request prefers, best first.

        The session's last replica comes first, whoever placed it there. Without one, those that
        have read the longest beginning of the prompt; of these, the replicas of this host first.

        Args:
            session: digest of its session, or empty.
            blocks: digests of the beginning of its prompt.
            now: monotonic seconds.
            here: replicas of this host.
        """
        if session:
            own = self._own_sessions.seen(session, now)
            told = self._told_sessions.seen(session, now)
            if told is not None and (own is None or told[1] > own[1]):
                return (told[0],)
            if own is not None:
                return (own[0],)
        own_length = self._own_prefixes.matched(blocks)
        told_length = self._told_prefixes.matched(blocks)
        if not (own_length or told_length):
            return ()
        found: tuple[str, ...] = ()
        if own_length >= told_length:
            found = self._own_prefixes.prefer(blocks)
        if told_length >= own_length:
            found += self._told_prefixes.prefer(blocks)
        if len(found) == 1:
            return found
        unique = list(dict.fromkeys(found))
        return tuple([one for one in unique if one in here] + [o for o in unique if o not in here])

    def remember(
        self, session: bytes, blocks: tuple[bytes, ...], replica_id: str, now: float, *, here: bool
    ) -> None:
        """Note that a request was sent to a replica.

        Args:
            session: digest of its session, or empty.
            blocks: digests of the beginning of its prompt.
            replica_id: the replica.
            now: monotonic seconds.
            here: it is a replica of this host, so the other hosts are told.
        """
        if session:
            self._own_sessions.note(session, replica_id, now)
        new = self._own_prefixes.remember(blocks, replica_id) if blocks else []
        if here and self.lately is not None:
            self.lately.placed(session, new, replica_id)

    def told(self, replica_id: str, sessions: bytes, blocks: bytes, now: float) -> None:
        """Take a peer's word of what was placed on one of its replicas.

        Args:
            replica_id: of the peer.
            sessions: joined digests, as of `PlacedLately.take`.
            blocks: joined digests.
            now: monotonic seconds of this host.

        Raises:
            ValueError: the digests are not whole, or more than a host tells at once.
        """
        for session in split_digests(sessions, MOST_TOLD):
            self._told_sessions.note(session, replica_id, now)
        for block in split_digests(blocks, MOST_TOLD):
            self._told_prefixes.remember((block,), replica_id)

    def tell_others(self, *, there_are: bool) -> None:
        """Set whether there are other hosts to tell what is placed here."""
        if there_are != (self.lately is not None):
            self.lately = PlacedLately() if there_are else None

    def take_news(self) -> dict[str, tuple[bytes, bytes]]:
        """Return what other hosts were not told yet (see `PlacedLately.take`)."""
        return {} if self.lately is None else self.lately.take()

    def forget_replica(self, replica_id: str) -> None:
        """Forget a replica of this host whose process ended or was replaced: its cache is lost."""
        self._own_sessions.forget_replica(replica_id)
        self._own_prefixes.forget_replica(replica_id)

    def keep_for(self, seconds: float) -> None:
        """Set how long a session is remembered; 0 for not at all."""
        self._own_sessions.seconds = self._told_sessions.seconds = seconds

    def told_count(self) -> int:
        """Return how many sessions and blocks peers have told, of those that are kept."""
        return len(self._told_sessions) + len(self._told_prefixes)

    @property
    def keeps_sessions(self) -> bool:
        """Whether sessions are remembered at all."""
        return self._own_sessions.seconds > 0


def split_digests(joined: bytes, most: int) -> list[bytes]:
    """Cut joined digests apart. Raises ValueError if they are not whole, or more than `most`."""
    if len(joined) % DIGEST_BYTES or len(joined) > most * DIGEST_BYTES:
        raise ValueError("it told what are no digests")
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]
