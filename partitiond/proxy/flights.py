"""Requests between admission and their end, as replicas and queues see them."""

import asyncio
import dataclasses
import math
from typing import TYPE_CHECKING, Final, Protocol

from partitiond.core.admission import Cost, Rejected, Waiting
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


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Whose a request is, for fairness: an API key's id, weight and priority."""

    key: str = ""
    weight: float = 1.0
    priority: int = 0


EVERYBODY: Final = Share()


class Flight:
    """One request of a client, from admission to its end.

    Attributes:
        cost: what it takes from a replica; never changes.
        started_at: when its last byte had come, by `time.monotonic` (the same clock as the event
            loop's, of which uvloop shows whole milliseconds only).
        max_wait_seconds: longest wait the client allows; infinite where it says nothing.
        placed_at: when it got its replica, by the same clock.
        replica: where it is in flight, or None.
        entry: its place in the queue, or None.
        attempts: made so far, the first included.
        unreached: of them, those on a replica that nobody listened on: nothing was sent.
        engine_seconds: spent in engines so far, times its sequences; of attempts that are over.
        tried: replicas that failed it.
        held: it came while its model slept, and waits whatever becomes of that.
        share: whose it is.
        prefer: replicas it would rather have, best first.
        session: name of its session, scoped by its key; or empty.
        blocks: digests of how its prompt begins (see `core.affinity`).
    """

    __slots__ = (
        "attempts",
        "blocks",
        "cost",
        "engine_seconds",
        "entry",
        "held",
        "max_wait_seconds",
        "owner",
        "placed_at",
        "prefer",
        "replica",
        "request_id",
        "session",
        "share",
        "started_at",
        "timer",
        "tried",
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
        self.owner = owner
        self.request_id = request_id
        self.cost = cost
        self.started_at = started_at
        self.max_wait_seconds = max_wait_seconds
        self.placed_at = started_at
        self.replica: LiveReplica | None = None
        self.entry: Waiting[Flight] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.attempts = 0
        self.unreached = 0
        self.engine_seconds = 0.0
        self.tried: frozenset[str] = frozenset()
        self.held = False
        self.share = EVERYBODY
        self.prefer: tuple[str, ...] = ()
        self.session = ""
        self.blocks: tuple[bytes, ...] = ()

    def leave(self) -> None:
        """Give the place back; harmless when there is none."""
        if self.replica is not None:
            self.replica.remove(self)
