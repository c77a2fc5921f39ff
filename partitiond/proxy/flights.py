"""Requests between admission and their end, as replicas and queues see them."""

import asyncio
import math
from typing import TYPE_CHECKING, Final, Protocol

from partitiond.core.admission import Cost, Rejected
from partitiond.core.places import Request
from partitiond.core.quarantine import Exposure

if TYPE_CHECKING:
    from partitiond.proxy.replicas import LiveReplica


class FlightOwner(Protocol):
    """Whose flight it is; told what became of its waiting."""

    def placed(self, replica: "LiveReplica") -> None:
        """It has got a place there, and holds it from now on."""
        ...

    def refused(self, rejected: Rejected) -> None:
        """It waited in vain."""
        ...

    def exposure(self, now: float) -> Exposure:
        """What it had to do with its replica's death."""
        ...

    def suspected(self) -> None:
        """It may be what its replica died of: it goes to no other one."""
        ...

    def crashed(self) -> None:
        """A bug of ours while it was told something; called inside `except`."""
        ...


class Nobody:
    """Owner of a flight that has ended."""

    def placed(self, replica: "LiveReplica") -> None:
        """Never called."""

    def refused(self, rejected: Rejected) -> None:
        """Never called."""

    def exposure(self, now: float) -> Exposure:
        """Never called."""
        raise NotImplementedError

    def suspected(self) -> None:
        """Never called."""

    def crashed(self) -> None:
        """Never called."""


NOBODY: Final = Nobody()


class Flight(Request):
    """One request of a client, from admission to its end.

    Attributes:
        started_at: when its last byte had come, by `time.monotonic` (the same clock as the event
            loop's, of which uvloop shows whole milliseconds only).
        placed_at: when it got its replica, by the same clock.
        replica: where it is in flight, or None.
        timer: of its deadline in the queue, or None.
        attempts: made so far, the first included.
        unreached: of them, those on a replica that nobody listened on: nothing was sent.
        engine_seconds: spent in engines so far, times its sequences; of attempts that are over.
        session: name of its session, scoped by its key; or empty.
        blocks: digests of how its prompt begins (see `core.affinity`).
    """

    __slots__ = (
        "attempts",
        "blocks",
        "engine_seconds",
        "owner",
        "placed_at",
        "replica",
        "request_id",
        "session",
        "started_at",
        "timer",
        "unreached",
    )  # fmt: skip

    def __init__(
        self,
        owner: FlightOwner,
        request_id: str,
        cost: Cost,
        started_at: float,
        max_wait_seconds: float = math.inf,
    ) -> None:
        super().__init__(cost, max_wait_seconds=max_wait_seconds)
        self.owner = owner
        self.request_id = request_id
        self.started_at = started_at
        self.placed_at = started_at
        self.replica: LiveReplica | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.attempts = 0
        self.unreached = 0
        self.engine_seconds = 0.0
        self.session = ""
        self.blocks: tuple[bytes, ...] = ()

    def leave(self) -> None:
        """Give the place back; harmless when there is none."""
        if self.replica is not None:
            self.replica.remove(self)
