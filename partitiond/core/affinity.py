"""Where a request would rather go: the replica of its session, or one that knows its beginning.

An engine keeps the KV cache of prompts it has read (vLLM: blocks by the hash of all tokens up to
their end), so a conversation that comes back to its replica saves most of its prefill. Both tables
here only *prefer*: `balance.choose_replica` gives a preference up when the replica has no room, is
not eligible, or is by more than `PREFERENCE_SLACK` of its limit fuller than the least full one.

Sessions are remembered for a time after they were last seen. Prefixes are digests of a prompt's
first blocks, each made over all blocks before it, so that one look-up per block finds the longest
beginning that was sent before. Both tables are bounded; the least recently used goes first. No
text is kept, only digests: a client may give a session a name of 32 KiB.
"""

import collections
import hashlib
from typing import Final

BLOCK_BYTES: Final = 512
"""About 128 tokens of English: shorter beginnings save less than a step of an engine."""
MAX_BLOCKS: Final = 16
"""8 KiB: beyond it two prompts with an equal beginning are the same conversation."""
MAX_ENTRIES: Final = 65_536
"""Of either table: 14 MB of sessions, 12 MB of prefixes, as counted."""
REPLICAS_EACH: Final = 4
"""Replicas remembered to know a prefix; a system prompt of everybody is soon known by all."""
_DIGEST_BYTES: Final = 12


class Sessions:
    """Session -> its replica. Names should be scoped by API key: they come from clients."""

    def __init__(self, seconds: float = 600.0, max_entries: int = MAX_ENTRIES) -> None:
        self.seconds = seconds
        self._max_entries = max_entries
        self._known: collections.OrderedDict[bytes, tuple[str, float]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def prefer(self, session: str, now: float) -> tuple[str, ...]:
        """Its replica, if it was seen within the time; as `choose_replica` takes it."""
        found = self._known.get(_digest(session))
        if found is None or now - found[1] >= self.seconds:
            return ()
        return (found[0],)

    def remember(self, session: str, replica_id: str, now: float) -> None:
        """It was sent there: where it was before no longer counts."""
        if self.seconds <= 0:
            return
        known, name = self._known, _digest(session)
        known[name] = (replica_id, now)
        known.move_to_end(name)
        # The order is that of being seen, so those out of time stand first.
        oldest = next(iter(known.values()))
        while len(known) > self._max_entries or now - oldest[1] >= self.seconds:
            known.popitem(last=False)
            oldest = next(iter(known.values()))

    def forget_replica(self, replica_id: str) -> None:
        """Its process is another one, or gone: its cache is lost."""
        for name, (replica, _) in list(self._known.items()):
            if replica == replica_id:
                del self._known[name]


def _digest(session: str) -> bytes:
    """Of fixed size. JSON can hold halves of surrogate pairs, which are no text, but names here."""
    encoded = session.encode(errors="surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


class Prefixes:
    """Beginnings of prompts -> the replicas that have read them, the latest first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._known: collections.OrderedDict[bytes, tuple[str, ...]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def matched(self, blocks: tuple[bytes, ...]) -> int:
        """Blocks at the beginning that some replica has read."""
        return next((n for n in range(len(blocks), 0, -1) if blocks[n - 1] in self._known), 0)

    def prefer(self, blocks: tuple[bytes, ...]) -> tuple[str, ...]:
        """Replicas with the longest match, the latest first; as `choose_replica` takes them."""
        count = self.matched(blocks)
        return self._known[blocks[count - 1]] if count else ()

    def remember(self, blocks: tuple[bytes, ...], replica_id: str) -> None:
        """A prompt was sent there."""
        known = self._known
        # From the longest to the shortest, so that the shared, short ones are forgotten last.
        for block in reversed(blocks):
            before = known.get(block, ())
            if not before or before[0] != replica_id:
                others = [other for other in before if other != replica_id]
                known[block] = (replica_id, *others[: REPLICAS_EACH - 1])
            known.move_to_end(block)
        while len(known) > self._max_entries:
            known.popitem(last=False)

    def forget_replica(self, replica_id: str) -> None:
        """Its process is another one, or gone: its cache is lost."""
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
    salt: bytes = b"",
    block_bytes: int = BLOCK_BYTES,
    max_blocks: int = MAX_BLOCKS,
) -> tuple[bytes, ...]:
    """Digests of the prompt's beginnings at each whole block, the shortest first.

    Args:
        prompt: its bytes, from where prompts of one kind begin to be equal (of a chat: the JSON of
            its messages).
        salt: what must be equal, too; as the model's name.
        block_bytes: of one block; a last part that is shorter does not count.
        max_blocks: looked at.
    """
    running = hashlib.blake2b(salt, digest_size=_DIGEST_BYTES)
    digests = []
    for start in range(0, min(len(prompt) // block_bytes, max_blocks) * block_bytes, block_bytes):
        running.update(prompt[start : start + block_bytes])
        digests.append(running.digest())
    return tuple(digests)
