"""Learns how fast one engine is now, and how much may be ahead of a request for it to meet its SLO.

A plan says how fast an engine is at its operating point. The engine may be slower (another GPU, a
neighbour, a CPU without the instructions of the one that was measured), or faster, and a prompt
that is sent while others are being read waits for all of them. So a request's first token is
expected from what is ahead of it there:

    seconds until its first token = a + c x (prompt tokens that are sent and unread)

its own included, with a and c from the last first tokens (least squares, older ones fade), times
the spread of what was seen over what was expected. Three rules follow (`Pace.most_sequences`,
`first_token_seconds`, `limit`):

1. A prompt waits here, where it has its turn and its deadline, rather than in the engine: one is
   sent when what is unread there takes a small share of the TTFT bound. The engine loses nothing,
   as it reads prompts one after the other anyway.
2. A request waits no longer than the bound less the time to its first token, behind as much as
   others were sent behind of late.
3. The limit is the batch whose steps meet the TPOT bound: sequences now x bound / TPOT now. A step
   has a part that does not grow with the batch, so this is on the safe side either way, and is
   approached without swinging. The planned batch is the most; an engine alone always has a request.

Several processes that send to one engine tell each other what is unread and the least limit.

Prompt tokens are the estimates that admission uses, so what a prefix cache saves is learned as a
faster reading. Only streams have a first token that anyone sees. Measured: docs/dispatch.md.
"""

import collections
import math
from collections.abc import Iterable
from typing import Final

READING_SHARE: Final = 0.07
"""Share of the TTFT bound for which prompts may be unread before another one is sent. Measured
(docs/dispatch.md): with 0.3 a tenth fewer are good where prompts take most of the time."""
FADE: Final = 0.95
"""Weight of the past for each new first token: some twenty count. Chosen; 0.9 does as well."""
MOST_RATIOS: Final = 40
OVERDUE: Final = 3.0
LEAST_OVERDUE_SECONDS: Final = 0.5
"""A prompt counts as unread for so many times what was expected of its first token, and at least so
long; nor is more than that learned of it. One that waits for something else than the engine (its
grammar, a picture) neither closes the replica to others nor makes it slow. Chosen."""
LATE_IN_A_ROW: Final = 3
"""Late first tokens in a row from which on it is the engine that is slower. Chosen."""
ENOUGH_RATIOS: Final = 5
"""First tokens whose spread is known, and before which nothing is expected. Chosen."""
SPREAD: Final = 0.9
"""Share of the first tokens that came within what is expected. Chosen."""
TPOT_SHARE: Final = 0.9
"""Share of the TPOT bound that the mean of all streams may take: single streams differ from it.
Chosen; with all of it a fifth of the streams came late."""
LOOK_SECONDS: Final = 0.5
MEMORY_SECONDS: Final = 2.0
"""How often the limit is looked at, and after which time a token counts 1/e. Chosen; from 1 to 4 s
all is alike."""
LEAST_TOKENS: Final = 4.0
"""Tokens before the time of a step is believed. Chosen."""
LEAST_TPOT_SECONDS: Final = 1e-9
"""No engine is faster, whatever the clock says."""
FORGET_SECONDS: Final = 10.0
"""Time without a token of a stream after which the planned batch is the limit again. Chosen."""


class Pace:
    """What was learned of one engine process.

    Attributes:
        limit: sequences that may be in flight, as far as this process has seen; the planned batch
            at most, 1 at least.
        unread_tokens: of prompts that this process has sent and whose first token has not come.
    """

    def __init__(self) -> None:
        self.limit = 1
        self._planned = 1
        self._ttft_seconds = 0.0
        self._tpot_seconds = 0.0
        self._unread: dict[object, tuple[int, float]] = {}
        """Request -> (prompt tokens unread when it was sent, its own included; when)."""
        self._tokens: dict[object, int] = {}
        self.unread_tokens = 0
        self._unread_elsewhere = 0
        self._least_elsewhere = 0
        self._ahead_when_sent = 0.0  # the most of late: one that waits may be sent behind as much
        # Sums of the least squares: weight, tokens, their squares, seconds, their products.
        self._sums = [0.0] * 5
        self._late = 0
        self._base = self._per_token = 0.0
        self._ratios: collections.deque[float] = collections.deque(maxlen=MOST_RATIOS)
        self._spread = 1.0
        # Faded sums: seconds and tokens of streams, and those seconds x sequences in flight.
        self._decoding = self._decoded = self._sequence_seconds = 0.0
        self._looked_at = -math.inf

    def apply(self, planned: int, ttft_seconds: float, tpot_seconds: float) -> None:
        """Take over the planned batch and the SLO's bounds; a bound of 0 is none."""
        if planned != self._planned or tpot_seconds != self._tpot_seconds:
            self.limit = planned
        self._planned = planned
        self._ttft_seconds = ttft_seconds
        self._tpot_seconds = tpot_seconds
        if not self.is_bounded:  # others tell nothing more
            self._unread_elsewhere = self._least_elsewhere = 0

    def learn_from_others(self, unread_tokens: int, limit: int, now: float) -> None:
        """Take over what other processes know that send to the engine, too.

        Args:
            unread_tokens: that they have sent.
            limit: the least that they have found lately; 0 if they have found none.
            now: monotonic seconds.
        """
        self._unread_elsewhere = unread_tokens
        self._least_elsewhere = limit
        self._forget_if_old(now)

    def _forget_if_old(self, now: float) -> None:
        if now - self._looked_at > FORGET_SECONDS:
            self.limit = self._planned

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound to keep to; else what is learned decides nothing."""
        return self._ttft_seconds > 0 or self._tpot_seconds > 0

    @property
    def _ahead_tokens(self) -> int:
        return self.unread_tokens + self._unread_elsewhere

    # First tokens

    def most_sequences(self, sequences: int) -> int:
        """Return how many sequences may be in flight, of which there are so many: no more while so
        many prompts are unread that further ones wait here.
        """
        most, ahead = READING_SHARE * self._ttft_seconds, self._ahead_tokens
        limit = min(self.limit, self._least_elsewhere or self.limit)
        if ahead and most and self._per_token * ahead > most:
            return min(sequences, limit)
        return limit

    def first_token_seconds(self, prompt_tokens: int) -> float | None:
        """Return the seconds within which a request's first token is expected if it is sent as
        soon as it may be; None while too little is known.
        """
        if len(self._ratios) < ENOUGH_RATIOS:
            return None
        tokens = max(self._ahead_tokens, self._ahead_when_sent)
        ahead = min(self._per_token * tokens, READING_SHARE * self._ttft_seconds)
        return (self._expected(prompt_tokens) + ahead) * self._spread

    def sent(self, request: object, prompt_tokens: int, now: float) -> None:
        """Note a stream whose request is sent now (monotonic seconds)."""
        self._ahead_when_sent = max(FADE * self._ahead_when_sent, self._ahead_tokens)
        self._tokens[request] = prompt_tokens
        self.unread_tokens += prompt_tokens
        self._unread[request] = self._ahead_tokens, now

    def left(self, request: object, now: float) -> None:
        """Note that a request has left, with or without a first token; harmless if twice."""
        self.unseen(request)
        self._forget_if_old(now)

    def unseen(self, request: object) -> None:
        """Note that nobody sees when the request's first token comes."""
        self._unread.pop(request, None)
        self.unread_tokens -= self._tokens.pop(request, 0)

    def expire(self, request: object, now: float) -> bool:
        """Count a request's prompt as read if its first token is overdue; return whether it was."""
        if request not in self._tokens:
            return False
        tokens, sent_at = self._unread[request]
        if now - sent_at <= self._overdue_seconds(tokens):
            return False
        self.unread_tokens -= self._tokens.pop(request)
        return True

    def _overdue_seconds(self, tokens: int) -> float:
        if len(self._ratios) < ENOUGH_RATIOS:
            return max(LEAST_OVERDUE_SECONDS, self._ttft_seconds)
        return max(LEAST_OVERDUE_SECONDS, OVERDUE * self._spread * self._expected(tokens))

    def first_token(self, request: object, now: float) -> None:
        """Learn from the first token of a stream."""
        found = self._unread.get(request)
        if found is None:
            return
        self.unseen(request)
        tokens, sent_at = found
        seconds = now - sent_at
        if len(self._ratios) >= ENOUGH_RATIOS:
            longest = self._overdue_seconds(tokens)
            self._late = self._late + 1 if seconds > longest else 0
            if 0 < self._late < LATE_IN_A_ROW:
                return  # it waited for something else than the engine, unless others do as well
            seconds = min(seconds, longest)
        expected = self._expected(tokens)
        if expected > 0:
            self._ratios.append(seconds / expected)
            ordered = sorted(self._ratios)
            self._spread = max(1.0, ordered[int(SPREAD * (len(ordered) - 1))])
        new = (1.0, tokens, tokens * tokens, seconds, tokens * seconds)
        self._sums = [FADE * old + one for old, one in zip(self._sums, new, strict=True)]
        self._base, self._per_token = _fitted(*self._sums)

    def _expected(self, tokens: int) -> float:
        return self._base + self._per_token * tokens

    # Further tokens

    def decoded(self, seconds: float, tokens: float, sequences: int, now: float) -> None:
        """Learn from a stream that got so many tokens in so many seconds; both times its sequences.

        Args:
            seconds: since it was last asked, or since its first token.
            tokens: that came meanwhile.
            sequences: in flight at the engine now.
            now: monotonic seconds.
        """
        self._decoding += seconds
        self._decoded += tokens
        self._sequence_seconds += sequences * seconds
        if now - self._looked_at < LOOK_SECONDS:
            return
        if self._decoded >= LEAST_TOKENS and self._decoding > 0 and self._tpot_seconds > 0:
            self._look()
        kept = math.exp(-(now - self._looked_at) / MEMORY_SECONDS)
        self._looked_at = now
        self._decoding *= kept
        self._decoded *= kept
        self._sequence_seconds *= kept

    def _look(self) -> None:
        """Set the limit by the TPOT and the sequences of the last seconds."""
        tpot = max(LEAST_TPOT_SECONDS, self._decoding / self._decoded)
        most = TPOT_SHARE * self._tpot_seconds
        sequences = self._sequence_seconds / self._decoding
        fits = math.floor(min(float(self._planned), sequences * most / tpot))
        if tpot > most:
            self.limit = max(1, min(self.limit, fits))
        else:
            is_full = sequences > self.limit - 1
            self.limit = min(self._planned, max(self.limit + is_full, fits))


def soonest(paces: Iterable[Pace], prompt_tokens: int) -> float | None:
    """Return the least `Pace.first_token_seconds` of engines; None if none is known."""
    known = (pace.first_token_seconds(prompt_tokens) for pace in paces)
    return min((seconds for seconds in known if seconds is not None), default=None)


def _fitted(
    weight: float, tokens: float, squares: float, seconds: float, products: float
) -> tuple[float, float]:
    """Return (seconds, seconds per token) of the line through weighted sums, neither negative."""
    variance = squares - tokens * tokens / weight
    if variance > 1e-3 * squares:  # else all prompts are alike, and nothing tells the two apart
        per_token = (products - tokens * seconds / weight) / variance
        base = (seconds - per_token * tokens) / weight
        if per_token >= 0 and base >= 0:
            return base, per_token
        if per_token < 0:
            return seconds / weight, 0.0
    return 0.0, seconds / max(1.0, tokens)
