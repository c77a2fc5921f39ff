"""Decides which requests may be sent to another replica after their replica died.

A request that kills its engine (a bug that one input triggers) must not be carried from replica to
replica: sent again it kills the next one, and a client library that repeats failed requests by
itself does the same from outside. But engines also die by operators, drivers and the kernel's OOM
killer. Then the requests in flight are innocent and should be served elsewhere.

A single death does not show its cause. It only shows which requests *might* have caused it. An
engine reads a prompt within a step or two of its arrival, so a request that kills its engine does
so then. Suspects are therefore the requests that the engine had in full and

- of which no token had come, if streamed; or
- that were sent less than `SUSPECT_SECONDS` ago, if not streamed (no token of them is ever seen).

All other requests on the dead replica continue as after any failure: requests not sent in full,
whole answers that had been worked on for longer, and all requests when the death is known to come
from outside (`external`: the daemon stopped, replaced or drained the replica). So a kill of a busy
replica costs the few requests that were in their prefill, not all.

Suspects are **not** sent to another replica; the client gets an error. Their fingerprints (a digest
of model and body) are quarantined, since clients repeat requests: for `FIRST_SECONDS`, which is
short, because a first death proves nothing: engines are killed from outside far more often than by
a request, and only the second death is proof. A fingerprint seen at a second death is quarantined
for `REPEAT_SECONDS`, even if it had got further both times (so a request that kills late is found,
though not before its second death). A fingerprint is cleared when its request ends well. Therefore:

- a request that kills as it begins takes no second replica down by being retried, and while it is
  quarantined the same request is sent to no engine, whoever sends it;
- a request that always kills takes down one replica, a second one when its quarantine is over
  (`FIRST_SECONDS` later), then one per `REPEAT_SECONDS`, however often it is sent;
- an innocent suspect that is sent again is refused for `FIRST_SECONDS`, and for `REPEAT_SECONDS` if
  it begins beside a second death before it has ended well once.

A fingerprint is forgotten after `REPEAT_SECONDS` without another death. Requests need a fingerprint
only while one is remembered; otherwise there is no cost. The answer is 422, because client
libraries repeat 5xx and 429 by themselves. The proxy of another host that had sent the request
notes the verdict (`died_elsewhere`, `heard`), so that it carries the request to no third host.
Quarantines are per process; workers of one proxy should tell each other of deaths (`died` with the
same arguments is enough).
"""

import collections
import dataclasses
import enum
import hashlib
from collections.abc import Sequence
from typing import Final

from partitiond.core.dispatch.admission import Rejected, retry_after_seconds

_DIGEST_BYTES: Final = 16


class RetryVerdict(enum.StrEnum):
    """Fate of a request whose replica died under it."""

    RETRY = "retry"
    """The request goes on as after any failure: to another replica, within attempts and budget."""
    REFUSE = "refuse"
    """The client gets an error, because the request may be the cause."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """A request that was in flight on a replica when the replica died.

    Attributes:
        fingerprint: see `fingerprint`.
        sent_seconds: how long ago the engine had received all of it; None if it never had.
        streamed: whether its first token would have been seen.
        first_token: whether its first token was seen.
    """

    fingerprint: bytes
    sent_seconds: float | None
    streamed: bool = True
    first_token: bool = False


SUSPECT_SECONDS: Final = 2.0
"""A request that is not streamed is no suspect if it was worked on for longer. Chosen: several
times what a prefill takes."""
FIRST_SECONDS: Final = 30.0
"""Quarantine after a first death. Chosen."""
REPEAT_SECONDS: Final = 3600.0
"""Quarantine after a second death; an earlier death than that counts no more. Chosen."""
MAX_ENTRIES: Final = 4096
"""Fingerprints remembered; the oldest are dropped first."""


@dataclasses.dataclass(slots=True)
class _Suspicion:
    """The suspicion against one fingerprint.

    Attributes:
        deaths: deaths at which it was in flight.
        at: when the last of them was.
        until: end of its quarantine.
        suspect: it may have been the cause; else it was only in flight.
    """

    deaths: int
    at: float
    until: float
    suspect: bool


def fingerprint(model: str, body: bytes) -> bytes:
    """Return the digest of what makes two requests the same: the model and the body, byte by
    byte.
    """
    digest = hashlib.blake2b(model.encode(), digest_size=_DIGEST_BYTES)
    digest.update(b"\0")
    digest.update(body)
    return digest.digest()


class Quarantine:
    """Quarantine of one model or process. While nothing is suspected, a check is one look-up."""

    def __init__(
        self, *, suspect_seconds: float = SUSPECT_SECONDS, first_seconds: float = FIRST_SECONDS
    ) -> None:
        self._suspect_seconds = suspect_seconds
        self._first_seconds = first_seconds
        self._suspected: collections.OrderedDict[bytes, _Suspicion] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._suspected)

    def check(self, fingerprint: bytes, now: float) -> Rejected | None:
        """Explain why a request may not go to any replica now, or None. Called before its first
        attempt.
        """
        self._forget_old(now)
        suspicion = self._suspected.get(fingerprint)
        if suspicion is None or not suspicion.suspect or now >= suspicion.until:
            return None
        return Rejected(
            422,
            "request_quarantined",
            "A replica died while it began this very request. It is not tried again for now.",
            retry_after_seconds(suspicion.until - now),
        )

    def died(
        self, exposures: Sequence[Exposure], now: float, *, external: bool = False
    ) -> tuple[RetryVerdict, ...]:
        """Record that a replica's process has ended; return the fate of each request in flight.

        Args:
            exposures: requests that were in flight on the replica, but those that came after its
                process had begun to end, which may have reached only a listener that is left.
            now: monotonic seconds.
            external: the replica was stopped from outside, so no request caused its death.
        """
        if external:
            return (RetryVerdict.RETRY,) * len(exposures)
        suspects = {one.fingerprint for one in exposures if self._may_have_done_it(one)}
        present = {one.fingerprint for one in exposures if one.sent_seconds is not None}
        for name in present:
            self._note(name, now, suspect=name in suspects)
        guilty = {
            name
            for name, suspicion in self._suspected.items()
            if name in present and suspicion.suspect
        }
        return tuple(
            RetryVerdict.REFUSE if one.fingerprint in guilty else RetryVerdict.RETRY
            for one in exposures
        )

    def died_elsewhere(self, fingerprint: bytes, now: float) -> None:
        """Record that a request killed a replica of another host, whose proxy judged so."""
        self._note(fingerprint, now, suspect=True)

    def heard(self, fingerprint: bytes, seconds: float, now: float) -> None:
        """Record that another host refuses a request for so long; it killed nothing this time."""
        seconds = min(max(0.0, seconds), REPEAT_SECONDS)
        before = self._suspected.pop(fingerprint, None)
        deaths, until = (1, now) if before is None else (before.deaths, before.until)
        self._suspected[fingerprint] = _Suspicion(deaths, now, max(until, now + seconds), True)
        self._forget_most()

    def answered(self, fingerprint: bytes) -> None:
        """Clear a request that got its whole answer, and whose replica lives."""
        self._suspected.pop(fingerprint, None)

    def _forget_old(self, now: float) -> None:
        """Forget fingerprints whose last death is so old that another would count as a first."""
        while self._suspected:
            # The order is that of the last deaths, so the oldest comes first.
            name, oldest = next(iter(self._suspected.items()))
            if now - oldest.at < REPEAT_SECONDS:
                return
            del self._suspected[name]

    def _may_have_done_it(self, exposure: Exposure) -> bool:
        if exposure.sent_seconds is None:
            return False
        if exposure.streamed:
            return not exposure.first_token
        return exposure.sent_seconds < self._suspect_seconds

    def _note(self, name: bytes, now: float, *, suspect: bool) -> None:
        before = self._suspected.pop(name, None)
        again = before is not None and now - before.at < REPEAT_SECONDS
        deaths = before.deaths + 1 if before is not None and again else 1
        seconds = self._first_seconds
        if deaths > 1:
            suspect, seconds = True, REPEAT_SECONDS
        self._suspected[name] = _Suspicion(deaths, now, now + seconds, suspect)
        self._forget_most()

    def _forget_most(self) -> None:
        while len(self._suspected) > MAX_ENTRIES:
            self._suspected.popitem(last=False)
