"""Defines live requests: from admission to their end, and the replicas that they are sent to."""

import asyncio
import math
from typing import Final, Protocol, cast

from partitiond.core.dispatch.admission import Cost, Rejected
from partitiond.core.dispatch.places import Request
from partitiond.core.dispatch.quarantine import Exposure, Quarantine
from partitiond.proxy.engine.upstream import Receiver, UpstreamConnection

HOP_SECONDS: Final = 1.0
"""How much later a time limit of a request at another host ends it at the side that does not judge:
the owner knows its engines, and the entry its client. Several sweeps and a slow network. Chosen."""


class AnyReplica:
    """A replica that requests are sent to: an engine process of this host, or a peer's.

    Attributes:
        replica_id: its name.
        host: that it is on; empty for this one.
        later_seconds: how much later than its own limits a request there is given up.
    """

    later_seconds = 0.0

    def __init__(self, replica_id: str) -> None:
        self.replica_id = replica_id
        self.host = ""

    def answer_to(self, receiver: Receiver) -> UpstreamConnection | None:  # noqa: ARG002 -- a peer's
        """Pass the answer to a request that was sent already on, if it was."""
        return None

    def reuse(self, now: float) -> UpstreamConnection | None:
        """Return an open connection for a request, or None."""
        raise NotImplementedError

    async def connect(self) -> UpstreamConnection:
        """Open a connection. Raises AttemptError."""
        raise NotImplementedError

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """Take back a connection whose answer was relayed to its end."""
        raise NotImplementedError

    def first_token(self, live: "LiveRequest", now: float) -> None:
        """Learn from the first token of a stream; the owner of a replica elsewhere does so."""

    def decoded(self, live: "LiveRequest", seconds: float, tokens: int, now: float) -> None:
        """Learn from tokens that a stream got in so many seconds; as `first_token`."""

    def unseen(self, live: "LiveRequest") -> None:
        """Note that a stream's first token is not seen; as `first_token`."""

    def wait_for_first_token(self, live: "LiveRequest", now: float) -> None:
        """Let others start if a stream's first token is overdue; as `first_token`."""

    def remove(self, live: "LiveRequest") -> None:
        """Remove a request that has left; harmless if it is not there."""
        raise NotImplementedError

    @property
    def counted_as(self) -> str:
        """Name that its failures have in this host's metrics; empty where another host counts."""
        return self.replica_id

    @property
    def is_dead(self) -> bool:
        """Whether no process listened on its socket at the last look."""
        return False

    # How its requests end. A replica of another host is judged by its owner.

    def failed(self, source: str) -> int:  # noqa: ARG002 -- its owner's
        """Count a failed attempt of a request of this source, and return the number of the failure;
        0 if it has none (see `Reputation.failed`).
        """
        return 0

    def served_elsewhere(self, number: int) -> None:
        """Note that another replica has answered the request of the failure of this number."""

    def succeeded(self) -> None:
        """Note a whole answer, which ends a series of failures."""

    def connect_failed(self) -> bool:
        """Return whether connecting failed because no process listens."""
        raise NotImplementedError

    def look_for_death(self, quarantine: Quarantine, *, idle_end: bool) -> float:
        """Judge the requests in flight after a connection broke, if nothing listens any more.

        Returns:
            Seconds after which to look again, before a request is sent elsewhere; 0 for not at all.
        """
        del quarantine, idle_end
        return 0.0


class LiveRequestOwner(Protocol):
    """The owner of a request, which is called when the request's waiting ends."""

    def placed(self, replica: "AnyReplica") -> None:
        """Start on the replica, where the request holds a place from now on."""
        ...

    def refused(self, rejected: Rejected) -> None:
        """Fail, because the request got no place."""
        ...

    def exposure(self, now: float) -> Exposure:
        """Return what the quarantine needs to judge the request after its replica's death."""
        ...

    def suspected(self) -> None:
        """Never send the request to another replica, because it may have killed its own."""
        ...

    def on_bug(self) -> None:
        """End after a bug of ours in one of these calls; called inside `except`."""
        ...


NOBODY: Final = cast("LiveRequestOwner", None)
"""Owner of a request that has ended, which nothing calls any more."""


class LiveRequest(Request):
    """One request of a client, from admission to its end.

    Attributes:
        started_at: when its last byte had arrived, by `time.monotonic` (the same clock as the
            event loop's, but uvloop's clock has only whole milliseconds).
        placed_at: when it was placed on its replica, by the same clock.
        replica: the replica where it is in flight, or None.
        timer: of its deadline in the queue, or None.
        attempts: number of attempts so far, including the first.
        stream: its answer is a stream, whose first token is seen.
        unreached: of them, those on a replica where no process listened: nothing was sent.
        prefixes: digests of the beginnings of its prompt (see `core.dispatch.affinity`).
    """

    __slots__ = (
        "attempts", "owner", "placed_at", "prefixes", "replica", "request_id", "started_at",
        "stream", "timer", "unreached",
    )  # fmt: skip

    def __init__(
        self,
        owner: LiveRequestOwner,
        request_id: str,
        cost: Cost,
        started_at: float,
        max_wait_seconds: float = math.inf,
    ) -> None:
        super().__init__(cost, max_wait_seconds=max_wait_seconds)
        self.owner = owner
        self.stream = False
        self.request_id = request_id
        self.started_at = started_at
        self.placed_at = started_at
        self.replica: AnyReplica | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.attempts = 0
        self.unreached = 0
        self.prefixes: tuple[bytes, ...] = ()

    def leave(self) -> None:
        """Give the place back; harmless if there is none."""
        if self.replica is not None:
            self.replica.remove(self)
