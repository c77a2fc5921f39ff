"""Judges a replica by how its requests end.

| | it is sent | until |
|---|---|---|
| good | requests, by its load | |
| doubtful | what no good replica has room for | an answer |
| refused | nothing, unless all replicas of its host are refused | an answer |
| out | nothing | a process listens on its socket |

Failures in a row make a replica doubtful. They may still be the fault of one key's requests. They
are the replica's (it is *proved*), and the replica is refused, once another key's request has
failed there as well, or another replica has answered a request that failed there. So no key can
take a replica away from the others. Without keys, each request's text counts as a key.

A doubtful or refused replica has a **trial** after each pause: one request, as if it were good. The
pause doubles with each proof, so a broken replica costs ever fewer requests, and each of them is
sent elsewhere afterwards. A trial that fails and proves nothing may have been the fault of its key,
whose next requests must not take the trials of all others: the next one follows after the shortest
pause. If all replicas are refused, the fault is common to all or the key's own,
and they are used by their load.

An engine that refuses a request (400, 422) is believed, unless it refused its last ones too. Then
another replica, which did answer, is asked as well: if it answers, that is a proof, and if it
refuses, the request is to blame. Until then the replica is doubtful.

The requests that were in flight at the death of a process are judged by `quarantine`.
"""

import enum
import math
from typing import Final

FAILURES: Final = 3
"""In a row, before they mean anything. Chosen: a single one happens to good replicas as well."""
PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 60.0
"""First pause before a trial, which doubles, and the longest one. Both are chosen."""
DYING_SECONDS: Final = 2.0
"""How long a process that dies may hold its listener after its first connection broke. Chosen: to
give back its memory takes large processes some tenths of a second."""
LOOK_AGAIN_SECONDS: Final = 0.05
"""Pause after a connection broke before its request is sent elsewhere, if the process listens
still. A process closes all its sockets within microseconds once it has a core. Chosen: a retry can
wait as long."""


class Trust(enum.IntEnum):
    """What a replica is sent; the module describes it. The greater, the less."""

    GOOD = 0
    DOUBTFUL = 1
    REFUSED = 2
    OUT = 3


class Reputation:
    """What is known of one engine process; another process begins with a new one.

    Args:
        number: of the last failure of the process before; the numbers of a replica go on.

    Attributes:
        failures: in a row.
        refusals: requests in a row that its engine refused.
        number: of the last failure that counts. By its number a failure is proved later, and no
            other one, whatever has become of the replica meanwhile.
        proofs: times in a row that the failures were proved to be the replica's fault.
        trial_at: when the next trial is due, in monotonic seconds.
        out: no process listened at the last look.
        broke_at: when the first connection broke that may be the beginning of the process's end;
            infinite for none.
        death_judged: the requests in flight at the end of the process were judged.
    """

    __slots__ = (
        "_is_proved", "_settled", "_source", "broke_at", "death_judged", "failures", "number",
        "out", "proofs", "refusals", "trial_at",
    )  # fmt: skip

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.out = self.death_judged = False
        self.succeeded()

    def succeeded(self) -> None:
        """Note a whole answer. A replica that is out, which may finish what runs, stays out."""
        self.failures = self.proofs = self.refusals = 0
        self.trial_at = 0.0
        self.broke_at = math.inf
        self._source = ""
        self._is_proved = False
        self._settled = self.number

    def failed(self, source: str, now: float) -> int:
        """Note a failed attempt.

        Args:
            source: the key of the request, or without keys what makes two requests the same.
            now: monotonic seconds.

        Returns:
            The number of the failure; 0 if it does not count.
        """
        if self.out or (self.proofs and now < self.trial_at):
            return 0  # it had been sent before the replica was refused
        is_another = self.failures > 0 and source != self._source
        self.failures += 1
        self._source = source
        self.number += 1
        self._judge(is_another, now)
        return self.number

    def served_elsewhere(self, number: int, now: float) -> None:
        """Note that another replica has answered the request of a failure, which proves nothing if
        an answer or a proof came since that failure.
        """
        if self._settled < number <= self.number:
            self._judge(True, now)

    def refused(self, now: float) -> int:
        """Note that the engine refused a request; return the number of the refusal, if another
        replica should be asked, else 0.
        """
        self.refusals += 1
        if self.refusals < FAILURES:
            return 0
        self.trial_at = max(self.trial_at, now + PAUSE_SECONDS)
        self.number += 1
        return self.number

    def refused_elsewhere(self, number: int) -> None:
        """Note that another replica has refused the request of a refusal as well."""
        if number == self.number and not self.proofs:
            self.trial_at = 0.0

    @property
    def is_in_doubt(self) -> bool:
        """Whether its last answers were all failures or all refusals."""
        return self.failures >= FAILURES or self.refusals >= FAILURES

    def _judge(self, is_proved: bool, now: float) -> None:
        self._is_proved = self._is_proved or is_proved
        if not self.is_in_doubt:
            return
        pause = PAUSE_SECONDS
        if self._is_proved:
            pause *= 2 ** min(30, self.proofs)
            self.proofs += 1
            self._is_proved = False
            self._settled = self.number
        self.trial_at = now + min(MAX_PAUSE_SECONDS, pause)

    def trust(self, now: float, *, on_trial: bool) -> Trust:
        """Return what the replica is sent at this moment, in monotonic seconds.

        Args:
            now: monotonic seconds.
            on_trial: a trial is in flight.
        """
        if self.out:
            return Trust.OUT
        if not self.is_in_doubt or (now >= self.trial_at and not on_trial):
            return Trust.GOOD
        return Trust.REFUSED if self.proofs else Trust.DOUBTFUL

    def broke(self, now: float, *, listens: bool, idle_end: bool) -> bool | None:
        """Note a connection that broke; return whether the process has ended.

        A process that dies may hold its listener for longer than its connections (a child has it,
        too). Requests that come between reach nobody and are not judged, for `DYING_SECONDS` from
        the first connection that broke. If the process was not dying then, one that kills it in
        that time escapes to another replica.

        Args:
            now: monotonic seconds.
            listens: whether a process listens on the socket.
            idle_end: the connection may have ended before it had a request, as those of engines
                that live do: this says nothing of what comes later.

        Returns:
            None if only another look can tell.
        """
        if now - self.broke_at > DYING_SECONDS:
            self.broke_at = math.inf
        if not listens:
            self.death_judged = True
            return True
        if idle_end:
            return False
        self.broke_at = min(self.broke_at, now)
        return None
