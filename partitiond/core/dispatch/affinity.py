"""Remembers the replicas that requests prefer, by session and by the beginning of the prompt.

An engine keeps the KV cache of prompts it has read (vLLM: blocks by the hash of all tokens up to
their end), so a conversation that returns to its replica saves most of its prefill. Both tables
here only *prefer*: `balance.choose_replica` drops a preference when the replica has no room, is
not eligible, or is fuller than the least full one by more than `PREFERENCE_SLACK` of its limit.

Sessions are remembered for a time after they were last seen. Prefixes are digests of a prompt's
first blocks. Each digest covers all blocks before it, so one look-up per block finds the longest
beginning that was sent before. Both tables are bounded; the least recently used entry is removed
first. Only digests are kept, no text: a client may give a session a name of 32 KiB.
"""

import collections
import hashlib
from typing import Final

BLOCK_BYTES: Final = 512
"""About 128 tokens of English: shorter beginnings save less than a step of an engine. Chosen."""
MAX_BLOCKS: Final = 16
"""8 KiB: two prompts that are equal for longer than this belong to the same conversation."""
MAX_ENTRIES: Final = 65_536
"""Of either table: 14 MB of sessions, 12 MB of prefixes, as counted."""
REPLICAS_EACH: Final = 4
"""Replicas remembered per prefix; all replicas soon know a system prompt that all clients send."""
DIGEST_BYTES: Final = 12


class SessionAffinity:
    """Session -> its replica. Scope session names by API key: clients choose them."""

    def __init__(self, seconds: float = 600.0, max_entries: int = MAX_ENTRIES) -> None:
        self.seconds = seconds
        self._max_entries = max_entries
        self._known: collections.OrderedDict[bytes, tuple[str, float]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, name: bytes, now: float) -> tuple[str, float] | None:
        """Return the replica of the session with this digest, and when it was seen last, if that
        was recently.
        """
        found = self._known.get(name)
        return None if found is None or now - found[1] >= self.seconds else found

    def note(self, name: bytes, replica_id: str, now: float) -> None:
        """Note that the session with this digest was sent to the replica, which replaces its
        earlier one.
        """
        if self.seconds <= 0:
            return
        known = self._known
        known[name] = (replica_id, now)
        known.move_to_end(name)
        # The order is that of the last use, so expired sessions stand first.
        oldest = next(iter(known.values()))
        while len(known) > self._max_entries or now - oldest[1] >= self.seconds:
            known.popitem(last=False)
            oldest = next(iter(known.values()))

    def forget_replica(self, replica_id: str) -> None:
        """Forget a replica whose process ended or was replaced: its cache is lost."""
        for name, (replica, _) in list(self._known.items()):
            if replica == replica_id:
                del self._known[name]


def session_digest(session: str) -> bytes:
    """Return the digest of fixed size. JSON can hold lone surrogates, which are not text but valid
    names.
    """
    encoded = session.encode(errors="surrogatepass")
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


class Prefixes:
    """Beginnings of prompts -> the replicas that have read them, latest first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._known: collections.OrderedDict[bytes, tuple[str, ...]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def matched(self, blocks: tuple[bytes, ...]) -> int:
        """Return the number of blocks at the beginning that some replica has read."""
        return next((n for n in range(len(blocks), 0, -1) if blocks[n - 1] in self._known), 0)

    def prefer(self, blocks: tuple[bytes, ...]) -> tuple[str, ...]:
        """Return the replicas with the longest match, latest first, for `choose_replica`."""
        count = self.matched(blocks)
        return self._known[blocks[count - 1]] if count else ()

    def remember(self, blocks: tuple[bytes, ...], replica_id: str) -> list[bytes]:
        """Note that a prompt was sent to the replica; return the blocks that it had not read yet as
        far as was known, longest first.
        """
        known, new = self._known, []
        # From the longest to the shortest, so that the shared, short ones are forgotten last.
        for block in reversed(blocks):
            before = known.get(block, ())
            if not before or before[0] != replica_id:
                others = [other for other in before if other != replica_id]
                if len(others) == len(before):
                    new.append(block)
                known[block] = (replica_id, *others[: REPLICAS_EACH - 1])
            known.move_to_end(block)
        while len(known) > self._max_entries:
            known.popitem(last=False)
        return new

    def forget_replica(self, replica_id: str) -> None:
        """Forget a replica whose process ended or was replaced: its cache is lost."""
        for block, replicas in list(self._known.items()):
            if replica_id in replicas:
                left = tuple(replica for replica in replicas if replica != replica_id)
                if left:
                    self._known[block] = left
                else:
                    del self._known[block]


def prefix_blocks(
    prompt: bytes,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_blocks: int = MAX_BLOCKS,
) -> tuple[bytes, ...]:
    """Return digests of the prompt's beginnings at each whole block, shortest first.

    Args:
        prompt: its bytes, from the point where prompts of one kind can be equal (of a chat: the
            JSON of its messages).
        block_bytes: size of one block; a shorter last part does not count.
        max_blocks: blocks to digest at most.
    """
    running = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digests = []
    for start in range(0, min(len(prompt) // block_bytes, max_blocks) * block_bytes, block_bytes):
        running.update(prompt[start : start + block_bytes])
        digests.append(running.digest())
    return tuple(digests)
