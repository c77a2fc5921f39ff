"""Learns how fast the replicas of a model write, and which of them are slow.

The speed of a replica is its output tokens per second of one sequence: a mean over tokens, not over
requests or seconds. An answer of one token is all prefill, and a key that sends many of them must
neither make its long answers cheap nor a replica look slow. Two things follow from it: what an
answer is charged of which nothing was seen (`core.keys.charging`), and which replicas are avoided.

A replica is slow if the tokens that it writes in its planned time of a request are fewer than the
median's by `SLOW_FROM` or more: replicas that keep their plans are alike in this on any hardware.
What was learned fades with `HALF_LIFE_SECONDS`, so that an avoided replica is tried again.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import Final

from partitiond.core.dispatch.balance import SLOW_FROM, LoadView
from partitiond.core.numbers.mean import Mean

FIRST_TOKENS_PER_S: Final = 100.0
"""Where neither a profile nor an answer tells. A guess: small models on a GPU."""
FIRST_TOKENS: Final = 1024.0
REMEMBERED_TOKENS: Final = 16_384.0
"""Output tokens that the first speed weighs, and that a speed remembers. Chosen: some answers, and
some dozens."""
MAX_SLOWNESS: Final = 8.0
ENOUGH_ANSWERS: Final = 8.0
"""Bounds of a slowness, and of the answers before it is used. Chosen."""
HALF_LIFE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 1.0
"""Until what was learned counts half, and until it is looked at again. Both are chosen."""


@dataclasses.dataclass(slots=True)
class _Speed:
    """What is known of one replica.

    Attributes:
        tokens_per_s: of one sequence.
        planned_seconds: of a request; 0 if that is not known.
        answers: that count still.
        at: when the last of them ended.
    """

    tokens_per_s: Mean
    planned_seconds: float = 0.0
    answers: float = 0.0
    at: float = -math.inf

    def answers_at(self, now: float) -> float:
        """Return the answers that count still."""
        return self.answers * 0.5 ** ((now - self.at) / HALF_LIFE_SECONDS) if self.answers else 0.0

    @property
    def per_plan(self) -> float:
        """Tokens that it writes in its planned time."""
        return self.tokens_per_s.value * self.planned_seconds


class Speeds:
    """The speeds of the replicas of one model; the module describes them."""

    def __init__(self) -> None:
        self._speeds: dict[str, _Speed] = {}
        self._look_at = -math.inf
        self._slow = False

    def tokens_per_s(self, name: str, planned: float = 0.0) -> float:
        """Return what a replica writes of one sequence.

        Args:
            name: of the replica.
            planned: figure of its profile; 0 if that is not known.
        """
        known = self._speeds.get(name)
        return (planned or FIRST_TOKENS_PER_S) if known is None else known.tokens_per_s.value

    def observe(
        self,
        name: str,
        seconds: float,
        tokens: float,
        now: float,
        *,
        planned_seconds: float = 0.0,
        planned_tokens_per_s: float = 0.0,
    ) -> None:
        """Learn from a request that ended well.

        Args:
            name: of the replica.
            seconds: from the sending of the request to its end, of one sequence.
            tokens: that the sequence got.
            now: monotonic seconds.
            planned_seconds: the replica's expected time of one request; 0 if it is not known.
            planned_tokens_per_s: as of `tokens_per_s`.
        """
        if not (tokens > 0 and 0 < seconds < math.inf):
            return
        known = self._speeds.get(name)
        if known is None:
            first = self.tokens_per_s(name, planned_tokens_per_s)
            known = self._speeds[name] = _Speed(Mean(first, FIRST_TOKENS, REMEMBERED_TOKENS))
        known.tokens_per_s = known.tokens_per_s.observe(tokens / seconds, tokens)
        known.planned_seconds = planned_seconds
        known.answers = known.answers_at(now) + 1.0
        known.at = now

    def forget(self, name: str) -> None:
        """Forget a replica whose process was replaced."""
        self._speeds.pop(name, None)

    def look(self, loads: Iterable[LoadView], now: float) -> bool:
        """Set the slowness of the replicas, once a second; return whether any is slow."""
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            factors = self._factors(now)
            if factors or self._slow:
                for load in loads:
                    load.slowness = factors.get(load.replica_id, 1.0)
            self._slow = bool(factors)
        return self._slow

    def _factors(self, now: float) -> dict[str, float]:
        known = {
            name: speed.per_plan
            for name, speed in self._speeds.items()
            if speed.planned_seconds > 0 and speed.answers_at(now) >= ENOUGH_ANSWERS
        }
        if len(known) < 2:
            return {}
        middle = statistics.median_high(known.values())
        return {
            name: min(MAX_SLOWNESS, middle / tokens)
            for name, tokens in known.items()
            if middle >= SLOW_FROM * tokens
        }
