"""Tracks the live state of a routing table: the requests in flight on each replica, and the queues.

The load of a replica is a set of `LiveRequest` objects. Its sums change only together with the set,
in two places, and leaving twice is harmless; so no failure can make the counts drift.
`core.dispatch.dispatcher` makes all decisions; this module carries them out, with callbacks and
timers.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected, Waiting, service_time
from partitiond.core.dispatch.affinity import Affinity, prefix_digests
from partitiond.core.dispatch.balance import is_eligible
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.estimates import FiguresOfKeys, estimate
from partitiond.core.dispatch.retry_budget import RetryBudget
from partitiond.core.dispatch.routing import (
    NO_REQUEST_LIMITS,
    ModelRoute,
    ReplicaRoute,
    RequestLimits,
)
from partitiond.core.dispatch.speeds import Speeds
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.live_requests import LiveRequest
from partitiond.proxy.dispatch.places import LivePlaces, SharedPlaces, TokenisePlaces
from partitiond.proxy.dispatch.replicas import (
    TOKENISING_SECONDS,
    LiveReplica,
    ReplicaGroup,
    TokeniseSlots,
)
from partitiond.proxy.dispatch.shared import LedgerAccess
from partitiond.proxy.dispatch.worker_queue import TICK_SECONDS
from partitiond.proxy.request.parts import ParsedRequest

HOST: Final = "host:"
"""Begins the name under which the speed of a host's replicas is learned; no replica has it."""


class LiveModel(ReplicaGroup):
    """One model: its replicas, its queues and the estimates learned from its requests.

    Attributes:
        max_model_len: longest context of any replica, on any host; 0 if unknown.
        limits: of one request, or None.
        figures: what was learned from the requests of each key.
        slots: decides for requests that take a slot.
        tokenising: decides for requests that take none (see `TokeniseSlots`).
        affinity: replicas that requests prefer.
        speeds: of its replicas, and of those of each other host together.
    """

    def __init__(self, route: ModelRoute, ledger: LedgerAccess | None = None) -> None:
        super().__init__(route.name, ledger)
        self.route = route
        self._tick_timer: asyncio.TimerHandle | None = None
        # The event loop's clock, because its timers use the deadlines. None before a loop runs.
        self._clock: Callable[[], float] | None = None
        self.retired: list[LiveReplica] = []
        places = LivePlaces(self.replicas)
        if self.shared is not None:
            places = SharedPlaces(self.replicas, self.shared)
        self.slots: Dispatcher[LiveRequest, LiveReplica] = Dispatcher(route, places)
        self.tokenising: Dispatcher[LiveRequest, TokeniseSlots] = Dispatcher(
            route, TokenisePlaces(self.replicas), service_time(TOKENISING_SECONDS)
        )
        self._dispatchers = (self.tokenising, self.slots)
        self.affinity = Affinity()
        self.speeds = Speeds()
        self.retries = RetryBudget()
        self.limits: RequestLimits | None = None
        self.figures = FiguresOfKeys()
        self.max_model_len = 0

    def idle_seconds(self, now: float) -> float:
        """How long the model has had no request; 0 while one waits or runs."""
        if self.waiting or any(replica.requests for replica in self.everyone()):
            return 0.0
        return max(0.0, now - self.busy_at)

    @property
    def waiting(self) -> int:
        """Number of requests that wait in either queue."""
        return sum(len(each.queue) for each in self._dispatchers)

    @property
    def held(self) -> int:
        """Requests that waited while a change or a wake-up left the model without a replica."""
        return sum(each.held for each in self._dispatchers)

    @property
    def turned_away(self) -> int:
        """Requests that were refused at once because the model had no replica."""
        return sum(each.turned_away for each in self._dispatchers)

    # Requests

    def estimate(self, request: ParsedRequest, key_id: str) -> Cost:
        """Estimate what a request of a key will use."""
        size = request.size
        return estimate(
            self.figures.of(key_id),
            sequences=request.sequences,
            prompts=size.prompts,
            prompt_tokens=size.prompt_tokens,
            prompt_bytes=size.prompt_bytes,
            max_tokens=size.max_tokens,
            max_model_len=self.max_model_len,
        )

    def tokens_per_s(self, replica_id: str, host: str) -> float:
        """Return what a replica writes of one sequence.

        Args:
            host: of the replica; empty for this one. Those of another host are taken together.
        """
        replica = self.replicas.get(replica_id)
        if replica is None:
            return self.speeds.tokens_per_s(HOST + host)
        return self.speeds.tokens_per_s(replica_id, replica.route.tokens_per_s)

    def learn(self, replica_id: str, host: str, seconds: float, tokens: float) -> None:
        """Learn from a request that ended well.

        Args:
            replica_id: of the replica that ran the request.
            host: of the replica; empty for this one.
            seconds: from the sending of the request to its end.
            tokens: that each sequence of the request got.
        """
        self.slots.learn(seconds)
        replica = self.replicas.get(replica_id)
        if replica is None:
            self.speeds.observe(HOST + host, seconds, tokens)
        else:
            self.speeds.observe(replica_id, seconds, tokens, replica.route.tokens_per_s)

    def prefer_replicas(self, live: LiveRequest, body: bytes) -> None:
        """Set the replicas that the request prefers, by the beginning of its body: prompts that
        begin alike are in bodies that begin alike.
        """
        live.prefixes = prefix_digests(body)
        live.prefer = self.affinity.prefer(live.prefixes, self.replicas)

    def remember(self, live: LiveRequest, replica_id: str, *, is_own: bool) -> None:
        """Remember that the request was sent to this replica, which is of this host or a peer's."""
        if live.prefixes:
            self.affinity.remember(live.prefixes, replica_id, is_own=is_own)

    def place(self, live: LiveRequest, *, again: bool = False) -> LiveReplica | Rejected | None:
        """Return a replica, or a refusal, or None: then the request's owner is called later.

        Args:
            again: the request was admitted before (a retry): it goes to the front, and is not
                refused for the queue's length.
        """
        self.busy_at = now = self._now()
        found = self._dispatcher_of(live).arrives(live, now, again=again)
        if isinstance(found, Waiting):
            self._watch(found)
            self.dispatch()
            return None
        return found.replica if isinstance(found, TokeniseSlots) else found

    def stop_waiting(self, live: LiveRequest) -> None:
        """Remove a request whose client has left; harmless if the request does not wait."""
        if live.entry is None:
            return
        _forget_timer(live)
        if self._dispatcher_of(live).leaves(live):
            self.dispatch()

    def has_another_for(self, live: LiveRequest) -> bool:
        """Whether a replica that has not failed the request yet could take it."""
        return self.slots.places.has_another_for(live)

    def in_doubt_for(self, live: LiveRequest) -> frozenset[str]:
        """Return the doubtful replicas if a good one is left for the request, else none.

        A retry waits for a good one rather than fail again, as a trial too, and so shows whose the
        fault was.
        """
        left = [one for one in self.replicas.values() if is_eligible(one, live.tried)]
        doubtful = [one.replica_id for one in left if one.reputation.is_in_doubt]
        return frozenset(doubtful if len(doubtful) < len(left) else ())

    def tokenised(self, seconds: float) -> None:
        """Learn the service time of a request without a slot that has left its replica."""
        self.tokenising.service = self.tokenising.service.observe(seconds)

    def _now(self) -> float:
        clock = self._clock
        if clock is None:
            clock = self._clock = asyncio.get_running_loop().time
        return clock()

    def refresh(self) -> None:
        """Bring the replicas' counts up to date, if several workers share them."""
        if self.shared is not None:
            self.shared.acquire()
            try:
                self.shared.refresh(self.replicas.values())
            finally:
                self.shared.release()

    # Carrying out decisions

    def dispatch(self) -> None:
        """Carry out the decisions due now: start requests in order."""
        for dispatcher in self._dispatchers:
            if not dispatcher.is_idle:
                now = self._now()
                while (decided := dispatcher.next_decision(now)) is not None:
                    self._carry_out(decided[0], decided[1])
        if self.shared is not None:
            if not self.slots.queue:
                self.shared.rest()
            elif self._tick_timer is None:
                loop = asyncio.get_running_loop()
                self._tick_timer = loop.call_later(TICK_SECONDS, self._tick)

    def _carry_out(
        self,
        live: LiveRequest,
        outcome: LiveReplica | TokeniseSlots | Rejected | Waiting[LiveRequest],
    ) -> None:
        _forget_timer(live)
        if isinstance(outcome, Waiting):
            self._watch(outcome)
            return
        owner = live.owner
        try:
            if isinstance(outcome, Rejected):
                owner.refused(outcome)
            else:
                owner.placed(outcome if isinstance(outcome, LiveReplica) else outcome.replica)
        except Exception:  # noqa: BLE001 -- the owner logs it; other requests go on
            owner.on_bug()

    def _watch(self, entry: Waiting[LiveRequest]) -> None:
        loop = asyncio.get_running_loop()
        entry.item.timer = loop.call_at(entry.deadline, self._expire, entry)

    def _expire(self, entry: Waiting[LiveRequest]) -> None:
        now = self._now()
        if self._dispatcher_of(entry.item).expires(entry, now):
            self.dispatch()  # it may have held a replica

    def _dispatcher_of(
        self, live: LiveRequest
    ) -> Dispatcher[LiveRequest, LiveReplica] | Dispatcher[LiveRequest, TokeniseSlots]:
        return self.slots if live.cost.sequences else self.tokenising

    def _tick(self) -> None:
        """Look again: other workers do not say where slots came free."""
        self._tick_timer = None
        self.dispatch()

    # Replicas

    def replicas_changed(self) -> None:
        """Reconsider the waiting requests, because a replica failed, was lost or came back."""
        now = self._now()
        for dispatcher in self._dispatchers:
            dispatcher.changed(now)
        self.dispatch()

    def remove(self) -> None:
        """Remove a model that left the table: running requests finish, waiting ones are refused."""
        self.apply(self.route, (), ProxyOptions(), removed=True)

    def apply(
        self,
        route: ModelRoute,
        routes: Iterable[ReplicaRoute],
        options: ProxyOptions,
        most: int | None = None,
        *,
        removed: bool = False,
    ) -> None:
        """Take over a newer table without touching requests in flight.

        Args:
            route: of the model.
            routes: of its replicas.
            options: of the proxy.
            most: requests that may wait at this host; None for the route's limit.
            removed: the model is in no table any more.
        """
        self.route = route
        self.limits = None if route.limits == NO_REQUEST_LIMITS else route.limits
        self.retries.share = options.retry_share
        wanted = {replica.replica_id: replica for replica in routes}
        for replica_id, replica in list(self.replicas.items()):
            new = wanted.get(replica_id)
            if new is None or not replica.is_same_process(new):
                del self.replicas[replica_id]
                self.speeds.forget(replica_id)
                self.affinity.forget_replica(replica_id)
                replica.draining = True
                replica.pool.close()
                self.retired.append(replica)
        for replica_id, new in wanted.items():
            known = self.replicas.get(replica_id)
            if known is None:
                if not self.replicas:
                    self.slots.service = service_time(new.service_seconds)
                self.replicas[replica_id] = LiveReplica(self, route, new, options)
            else:
                known.apply(route, new)
        self.retired = [replica for replica in self.retired if replica.requests]
        current = self.replicas.values()
        contexts = [replica.route.max_model_len for replica in current]
        self.max_model_len = max([*contexts, *[one.context for one in route.hosts]], default=0)
        # Requests wait only while an event loop runs; the first table may come before one does.
        now = self._now() if self.waiting else 0.0
        self.slots.changed(now, route=route, most=most, removed=removed)
        most_tokenising = max(1, (route.max_queue if most is None else most) // options.workers)
        self.tokenising.changed(now, route=route, most=most_tokenising, removed=removed)
        self.dispatch()

    def everyone(self) -> Iterable[LiveReplica]:
        """The replicas, and replaced processes that still have requests in flight."""
        yield from self.replicas.values()
        yield from self.retired


def _forget_timer(live: LiveRequest) -> None:
    """Cancel the timer of a request whose waiting is over, for any reason."""
    if live.timer is not None:
        live.timer.cancel()
        live.timer = None
