"""Implements the dispatcher's places (`core.dispatch.places`) for the replicas of one model in the
proxy.

Either one process has all places, or several workers share them. Workers take shared places under
the lock of all workers, and note what they have in flight and waiting in the ledger (see `ledger`).
Requests that take no slot have places of their own, which workers do not share (`TokeniseSlots`).
"""

import random
from collections.abc import Collection, Mapping

from partitiond.core.dispatch.admission import Cost, Waiting
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.core.dispatch.pace import soonest
from partitiond.core.dispatch.places import Places
from partitiond.proxy.dispatch.live_requests import LiveRequest
from partitiond.proxy.dispatch.replicas import LiveReplica, TokeniseSlots
from partitiond.proxy.dispatch.worker_queue import WorkerQueue, free_slots


class LivePlaces(Places[LiveRequest, LiveReplica]):
    """The slots of replicas to which only this process sends requests."""

    def __init__(self, replicas: Mapping[str, LiveReplica]) -> None:
        super().__init__(replicas.values(), random.random)

    def add(self, load: LiveReplica, request: LiveRequest) -> None:
        """Put the request on the replica."""
        load.add(request)

    def first_token_seconds(self, request: LiveRequest) -> float | None:
        """Return the seconds within which the request's first token is expected."""
        usable = (one.pace for one in self.loads() if not (one.draining or one.ejected))
        return soonest(usable, request.cost.prompt_tokens)

    def serve(self) -> bool:
        """Whether any replica serves; a replica on which no process listens does not count."""
        return any(not (replica.draining or replica.is_dead) for replica in self.loads())


class SharedPlaces(LivePlaces):
    """The slots of replicas that several workers share."""

    def __init__(self, replicas: Mapping[str, LiveReplica], shared: WorkerQueue) -> None:
        super().__init__(replicas)
        self._shared = shared

    def waiting_elsewhere(self) -> tuple[int, int]:
        """Return (requests, sequences) that wait in other workers."""
        return self._shared.waiting_elsewhere()

    def start(self, request: LiveRequest, cost: Cost, *, again: bool) -> LiveReplica | None:
        """Start the request under the lock, unless requests wait in another worker."""
        shared = self._shared
        shared.acquire()
        try:
            if shared.others_wait() and not again:
                return None
            shared.refresh(self.loads())
            return super().start(request, cost, again=again)
        finally:
            shared.release()

    def join(
        self, queue: FairQueue[LiveRequest], entry: Waiting[LiveRequest], most: int, *, again: bool
    ) -> Waiting[LiveRequest] | None:
        """Join the queue; the bound holds for the queues of all workers together."""
        shared = self._shared
        shared.acquire()
        try:
            room = most - shared.waiting_elsewhere()[0]
            queue.max_entries = max(room, 1)
            if room < 1 and not queue and not again:
                return entry
            without_place = queue.push(entry, front=again)
            shared.publish(queue)
        finally:
            shared.release()
        return without_place

    def take(
        self, queue: FairQueue[LiveRequest], now: float
    ) -> tuple[Waiting[LiveRequest], LiveReplica] | None:
        """Take the next request, unless the slots are left to other workers."""
        shared = self._shared
        shared.acquire()
        try:
            everyone = list(self.loads())
            open_places = shared.open_places(everyone)
            taken = self._take_of(queue, open_places) if open_places else None
            declined = taken is None and free_slots(open_places) > 0
            shared.hold(queue, everyone, now)
            shared.publish(queue, wants=not declined)
            return taken
        finally:
            shared.release()


class TokenisePlaces(Places[LiveRequest, TokeniseSlots]):
    """The places of replicas for requests that take no slot."""

    def __init__(self, replicas: Mapping[str, LiveReplica]) -> None:
        super().__init__((), random.random)
        self._replicas = replicas

    def loads(self) -> Collection[TokeniseSlots]:
        """Return those of each replica."""
        return [replica.tokenising for replica in self._replicas.values()]

    def add(self, load: TokeniseSlots, request: LiveRequest) -> None:
        """Put the request on the replica, which also counts it as tokenising."""
        load.replica.add(request)

    def serve(self) -> bool:
        """Whether any replica serves, as for slots."""
        return any(not (r.draining or r.is_dead) for r in self._replicas.values())
