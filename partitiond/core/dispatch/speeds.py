"""Learns how fast the replicas of a model write.

The speed of a replica is its output tokens per second of one sequence: a mean over tokens, not over
requests or seconds. An answer of one token is all prefill, and a key that sends many of them must
not make its long answers cheap. The speed decides what an answer is charged of which nothing was
seen (`core.keys.tokens_charged`).
"""

import math
from typing import Final

from partitiond.core.numbers.mean import Mean

FIRST_TOKENS_PER_S: Final = 100.0
"""Where neither a profile nor an answer tells. A guess: small models on a GPU."""
FIRST_TOKENS: Final = 1024.0
REMEMBERED_TOKENS: Final = 16_384.0
"""Output tokens that the first speed weighs, and that a speed remembers. Chosen: some answers, and
some dozens."""


class Speeds:
    """The speeds of the replicas of one model."""

    def __init__(self) -> None:
        self._speeds: dict[str, Mean] = {}

    def tokens_per_s(self, name: str, planned: float = 0.0) -> float:
        """Return what a replica writes of one sequence.

        Args:
            name: of the replica.
            planned: figure of its profile; 0 if that is not known.
        """
        learned = self._speeds.get(name)
        return (planned or FIRST_TOKENS_PER_S) if learned is None else learned.value

    def observe(self, name: str, seconds: float, tokens: float, planned: float = 0.0) -> None:
        """Learn from a request that ended well.

        Args:
            name: of the replica.
            seconds: from the sending of the request to its end, of one sequence.
            tokens: that the sequence got.
            planned: as of `tokens_per_s`.
        """
        if tokens > 0 and 0 < seconds < math.inf:
            first = Mean(self.tokens_per_s(name, planned), FIRST_TOKENS, REMEMBERED_TOKENS)
            learned = self._speeds.get(name, first)
            self._speeds[name] = learned.observe(tokens / seconds, tokens)

    def tell(self, name: str, tokens_per_s: float) -> None:
        """Take the word of the owner of a replica; 0 says nothing."""
        if tokens_per_s > 0:
            self._speeds[name] = Mean(tokens_per_s, FIRST_TOKENS, REMEMBERED_TOKENS)

    def forget(self, name: str) -> None:
        """Forget a replica whose process was replaced."""
        self._speeds.pop(name, None)
