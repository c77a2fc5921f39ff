"""Defines requests, and the places where they run, as `core.dispatch.dispatcher` sees them.

Each driver of the dispatcher has its own class for both, as the workers of the proxy count places
together. These classes inherit from `Places`, a plain collection of replicas. They change how
places are found and counted, and none changes a rule.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Generic, TypeVar

from partitiond.core.dispatch.admission import EVERYBODY, Cost, RequestOwner, Waiting, admits
from partitiond.core.dispatch.balance import LoadT, choose_replica, is_eligible
from partitiond.core.dispatch.fair_queue import FairQueue

NOWHERE: Final[frozenset[str]] = frozenset()


class Request:
    """One request as the dispatcher sees it.

    Attributes:
        cost: of the whole request; does not change while it waits or runs.
        takes: what it takes of its replica at a time, from when it has one.
        share: its owner.
        max_wait_seconds: longest wait that the client allows; infinite if the client sets none.
        tried: replicas that it avoids: it failed there, or they are doubtful and it is a retry.
        prefer: replicas that it prefers, best first (see `core.dispatch.affinity`).
        entry: set by the dispatcher: its place in the queue, or None.
        held: set by the dispatcher: it waits for a replica that is coming.
    """

    __slots__ = ("cost", "entry", "held", "max_wait_seconds", "prefer", "share", "takes", "tried")

    def __init__(
        self, cost: Cost, share: RequestOwner = EVERYBODY, max_wait_seconds: float = math.inf
    ) -> None:
        self.cost = self.takes = cost
        self.share = share
        self.max_wait_seconds = max_wait_seconds
        self.tried = NOWHERE
        self.prefer: tuple[str, ...] = ()
        self.entry: Waiting[Any] | None = None
        self.held = False

    @property
    def rounds(self) -> float:
        """How often it fills the slots that it takes; 1 unless it is larger than a batch."""
        return 1.0 if self.takes is self.cost else self.cost.sequences / self.takes.sequences


RequestT = TypeVar("RequestT", bound=Request)


class Places(Generic[RequestT, LoadT]):
    """The places of one model: a collection of replicas that only this dispatcher uses.

    Attributes:
        draw: numbers in [0, 1), which decide between replicas that are equally good.
    """

    def __init__(self, loads: Collection[LoadT], draw: Callable[[], float]) -> None:
        """
        Args:
            loads: all replicas, draining ones included; may be a view that changes.
            draw: see above.
        """
        self.draw = draw
        self._loads = loads

    def loads(self) -> Collection[LoadT]:
        """Return all replicas, draining ones included."""
        return self._loads

    def add(self, load: LoadT, request: RequestT) -> None:
        """Count the request as running on this replica."""
        raise NotImplementedError

    def serve(self) -> bool:
        """Return whether any replica takes requests, now or once it has room or its ejection is
        over.
        """
        return any(not load.draining for load in self.loads())

    def sequences_in_flight(self) -> int:
        """Return sequences in flight on all replicas together."""
        return sum(load.sequences for load in self.loads())

    def first_token_seconds(self, request: RequestT) -> float | None:  # noqa: ARG002 -- for others
        """Return the seconds within which the request's first token is expected once it starts, at
        the best replica (`core.dispatch.pace`); None while that is not known.
        """
        return None

    def waiting_elsewhere(self) -> tuple[int, int]:
        """Return (requests, sequences) that wait for the same places in other queues."""
        return 0, 0

    def join(
        self, queue: FairQueue[RequestT], entry: Waiting[RequestT], most: int, *, again: bool
    ) -> Waiting[RequestT] | None:
        """Put an entry into the queue; return the entry without a place (see `FairQueue.push`).

        Args:
            queue: of this dispatcher.
            entry: the entry that joins.
            most: maximum number of entries in all queues for these places together.
            again: the request was admitted before.
        """
        del most  # the queue's own bound
        return queue.push(entry, front=again)

    def start(self, request: RequestT, cost: Cost, *, again: bool) -> LoadT | None:
        """Take a place for a request that no waiting one precedes; None if there is no place.

        Args:
            request: the request.
            cost: what it takes.
            again: it was admitted before, so it goes before waiting requests.
        """
        del again
        chosen = self._choose(request, cost)
        if chosen is not None:
            self._put(chosen, request)
        return chosen

    def take(
        self, queue: FairQueue[RequestT], now: float
    ) -> tuple[Waiting[RequestT], LoadT] | None:
        """Take the next request that may start out of the queue, and a place for it."""
        del now
        return self._take_of(queue, self.loads())

    def has_another_for(self, request: RequestT) -> bool:
        """Return whether a replica that has not failed the request could take it, whatever the
        load.
        """
        return any(is_eligible(load, request.tried) for load in self.loads())

    def _choose(self, request: RequestT, cost: Cost) -> LoadT | None:
        loads = self.loads()
        if len(loads) == 1:
            (only,) = loads
            return only if admits(only, cost) and is_eligible(only, request.tried) else None
        draws = (self.draw(), self.draw())
        room = self._with_room(request, cost)
        return choose_replica(room, request.tried, draws, prefer=request.prefer)

    def _with_room(self, request: RequestT, cost: Cost) -> Iterable[LoadT]:
        """Return replicas that have room for it now; at least those that `choose_replica` may
        choose.
        """
        del request
        return [load for load in self.loads() if admits(load, cost)]

    def _take_of(
        self, queue: FairQueue[RequestT], loads: Iterable[LoadT]
    ) -> tuple[Waiting[RequestT], LoadT] | None:
        taken = queue.take(loads, self.draw)
        if taken is not None:
            self._put(taken[1], taken[0].item)
        return taken

    def _put(self, load: LoadT, request: RequestT) -> None:
        request.takes = request.cost.at_once(load.batch)
        self.add(load, request)
