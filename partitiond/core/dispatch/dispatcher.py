"""Dispatches the requests of one model: starts, queues or refuses each request.

The proxy and both simulators drive this one class, which knows no socket, clock or timer. A driver
reports an event (`arrives`, `leaves`, `expires`, `changed`) and then asks for the next decision
until there is none. A decision is a request and its outcome: a replica, on which the request now
holds its place; a refusal; or the request's entry in the queue, whose deadline the driver watches.
The rules are in `core.dispatch.admission`, `core.dispatch.balance` and `core.dispatch.fair_queue`;
`core.dispatch.places` keeps the places.

A freed place is not an event: the driver just asks for the next decision.
"""

from typing import Generic

from partitiond.core.dispatch.admission import (
    Cost,
    QueueLimits,
    Rejected,
    Waiting,
    refuse_elsewhere,
    refuse_full,
    refuse_too_late,
    refuse_unreachable,
    refuse_without_replica,
    service_time,
)
from partitiond.core.dispatch.balance import LoadT
from partitiond.core.dispatch.fair_queue import FairQueue, expire
from partitiond.core.dispatch.places import Places, RequestT
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.core.numbers.mean import Mean


class Dispatcher(Generic[RequestT, LoadT]):
    """Starts, queues or refuses each request of one model; the module describes how.

    Attributes:
        route: of the model, as of the last table.
        places: where the model's requests run.
        queue: the waiting requests.
        service: how long a sequence stays in an engine.
        held: requests that waited while a change or a wake-up left the model without a replica.
        turned_away: requests refused at once because of such an outage.
    """

    def __init__(
        self,
        route: ModelRoute,
        places: Places[RequestT, LoadT],
        service: Mean | None = None,
    ) -> None:
        """
        Args:
            route: of the model.
            places: see above; first read by the first `changed`.
            service: the first guess.
        """
        self.route = route
        self.places = places
        self.queue: FairQueue[RequestT] = FairQueue(route.max_queue)
        self.service = service or service_time()
        self.held = 0
        self.turned_away = 0
        self._most = route.max_queue
        self._removed = False
        self._serves = False
        # Decisions already made: entries with a refusal, or with themselves for "waits longer".
        self._told: list[tuple[Waiting[RequestT], Rejected | Waiting[RequestT]]] = []

    @property
    def is_idle(self) -> bool:
        """Whether no request waits and no decision is left."""
        return not self.queue and not self._told

    @property
    def is_full(self) -> bool:
        """Whether as many requests wait as may, in all queues for these places together."""
        return len(self.queue) + self.places.waiting_elsewhere()[0] >= self._most

    # Requests

    def arrives(
        self, request: RequestT, now: float, *, again: bool = False
    ) -> LoadT | Rejected | Waiting[RequestT]:
        """Take a new request; return its replica, refusal or entry (then ask for decisions).

        Args:
            request: the new request.
            now: monotonic seconds.
            again: the request was admitted before (a retry): it goes to the front, and is not
                refused for the queue's length.
        """
        held = self.held
        if not self._serves:
            self._hold(request, 0.0, now)
        if not self._anyone_for(request):
            self.turned_away += int(self._holds)
            return self._without_replica(now)
        cost = self._cost_of(request)
        if again or not (self.queue or self._must_leave_a_replica(request, cost)):
            chosen = self.places.start(request, cost, again=again)
            if chosen is not None:
                if not again:
                    self.queue.charge(request.share, request.cost.kv_tokens or 1)
                return chosen
        waits = self._wait(request, now, again=again)
        if isinstance(waits, Rejected):
            self.held = held  # who is refused has not waited
        return waits

    def leaves(self, request: RequestT) -> bool:
        """Drop a request whose client left; True if it waited (then ask for decisions)."""
        entry = request.entry
        if entry is None:
            return False
        request.entry = None
        return self.queue.discard(entry)

    def expires(self, entry: Waiting[RequestT], now: float) -> bool:
        """Note a passed deadline; True if the entry still waited (then ask for decisions)."""
        if entry not in self.queue:
            return False
        if self._serves:
            elsewhere = self.places.waiting_elsewhere()[1]
            limits = self._limits(entry.item)
            self._told.append((entry, expire(self.queue, entry, now, limits, elsewhere)))
        else:
            self.queue.discard(entry)
            self._told.append((entry, self._without_replica(now)))
        return True

    def next_decision(
        self, now: float
    ) -> tuple[RequestT, LoadT | Rejected | Waiting[RequestT]] | None:
        """Return the next decision; None if there is none for now.

        Decisions come one at a time, so that the driver's act on one may change the next.
        """
        while self._told:
            entry, outcome = self._told.pop(0)
            request = entry.item
            if request.entry is entry:  # it has not left meanwhile
                if outcome is not entry:
                    request.entry = None
                return request, outcome
        if not self.queue:
            return None
        taken = self.places.take(self.queue, now)
        if taken is None:
            return None
        started, chosen = taken
        started.item.entry = None
        return started.item, chosen

    # Learning from requests

    def settle(self, request: RequestT, used: float) -> None:
        """Correct the charge of the request's key by the tokens that the request used."""
        self.queue.settle(request.share.key, float(request.cost.kv_tokens), used)

    def learn(self, seconds: float) -> None:
        """Learn from a request that ended well, so many seconds after it was sent."""
        self.service = self.service.observe(seconds)

    # Replicas and routes

    def changed(
        self,
        now: float,
        *,
        route: ModelRoute | None = None,
        most: int | None = None,
        removed: bool = False,
    ) -> None:
        """Note that replicas came, went, were ejected or came back, or that the route changed.

        Args:
            now: monotonic seconds.
            route: the new route.
            most: requests that may wait; None for the route's limit.
            removed: the model is in no table any more.
        """
        if route is not None:
            self.route = route
            self._most = self.queue.max_entries = route.max_queue if most is None else most
        self._removed = self._removed or removed
        self._serves = self.places.serve()
        if self.queue:
            self._look_at_hopeless(now)

    def _look_at_hopeless(self, now: float) -> None:
        """Refuse waiting requests whose replicas are all gone, or hold them for the next one."""
        held: list[tuple[Waiting[RequestT], bool]] = []
        for entry in [entry for entry in self.queue if not self._anyone_for(entry.item)]:
            has_paid = self.queue.has_paid(entry)
            self.queue.discard(entry)
            if self._hold(entry.item, now - entry.since, now):
                held.append((entry, has_paid))
            else:
                self.turned_away += int(self._holds)
                self._told.append((entry, self._without_replica(now)))
        for entry, has_paid in reversed(held):  # each goes to the front
            # A request may wait longer for a replica than for a place: its deadline is renewed.
            longer = self._wait(entry.item, now, again=True)
            if isinstance(longer, Waiting):
                if not has_paid:
                    self.queue.let_owe(longer)
                self._told.append((longer, longer))
            else:
                self._told.append((entry, longer))

    def _hold(self, request: RequestT, waited_seconds: float, now: float) -> bool:
        """Return whether the request may wait for a replica to start; it may be held already."""
        if not request.held and self._holds and not request.tried:
            longest = min(self.route.max_wait_seconds, request.max_wait_seconds) - waited_seconds
            request.held = self._ready_in(now) <= longest
            self.held += int(request.held)
        return request.held and not request.tried and self._comes_back

    def _anyone_for(self, request: RequestT) -> bool:
        """Return whether waiting makes sense. An ejected replica comes back, but a retry is not
        kept, and it is not known when a replica that refuses connections comes back.

        A request that came while the model slept, or that is held while a replica starts, waits
        without any replica, even if the start takes longer than the request may wait.
        """
        if request.tried:
            return self.places.has_another_for(request)
        return self._serves or (request.held and self._comes_back)

    @property
    def _holds(self) -> bool:
        """Whether requests wait for the model to wake, or for a starting replica."""
        availability = self.route.availability
        coming = (
            availability is ModelAvailability.SLEEPING or availability is ModelAvailability.STARTING
        )
        return coming and self.route.holds and not self._removed

    @property
    def _comes_back(self) -> bool:
        starting = self.route.availability is ModelAvailability.STARTING
        # A table may still say "serving" while all its replicas drain: the next one is starting.
        serving = self.route.availability is ModelAvailability.SERVING
        return self._holds or ((starting or serving) and not self._removed)

    def _ready_in(self, now: float) -> float:
        """Return seconds until a replica should serve; zero or negative if it is due or unknown."""
        at = self.route.ready_at
        return at - now if at > 0 else 0.0

    def _without_replica(self, now: float) -> Rejected:
        # A table may say "serving" while its last replica drains and the next one starts.
        availability = self.route.availability
        if self.route.elsewhere and not self._removed:
            return refuse_elsewhere(self.route.name)
        if self._removed:
            availability = ModelAvailability.UNAVAILABLE
        elif any(not load.draining for load in self.places.loads()):
            return refuse_unreachable(self.route.name)
        soon = self._ready_in(now)
        retry_after = soon if soon > 0 else self.route.retry_after_seconds
        awaits = self.route.awaits if not self._removed else ""
        return refuse_without_replica(self.route.name, availability, retry_after, awaits)

    # The queue

    def _wait(self, request: RequestT, now: float, *, again: bool) -> Rejected | Waiting[RequestT]:
        """Put the request into the queue, from where it may start at once, or refuse it."""
        limits = self._limits(request)
        entry = Waiting(
            request,
            self._cost_of(request),
            now,
            now + limits.max_wait_seconds,
            request.tried,
            share=request.share,
            tokens=float(request.cost.kv_tokens),
            prefer=request.prefer,
        )
        ahead = 0
        if not again:
            ahead = self._ahead(entry)
            late = refuse_too_late(ahead, limits.max_wait_seconds, limits)
            if late is not None:
                return late
        displaced = self.places.join(self.queue, entry, self._most, again=again)
        if displaced is entry:
            return self._refuse_full(ahead, limits)
        request.entry = entry
        if displaced is not None:
            self._told.append((displaced, self._refuse_full(ahead, limits)))
        return entry

    def _cost_of(self, request: RequestT) -> Cost:
        """Return what the request takes of a replica at a time: at most the model's largest batch.

        A request of many batches thus counts as one batch ahead of others: it never holds more. A
        request of no sequence takes one place.
        """
        cost = request.cost
        if cost.sequences <= 1:
            return cost if cost.sequences else Cost(1, cost.kv_tokens)
        return cost.at_once(max([load.batch for load in self.places.loads()], default=0))

    def _must_leave_a_replica(self, request: RequestT, cost: Cost) -> bool:
        """Return whether the request waits although nobody does, to leave others a replica."""
        return cost.sequences > 1 and self.queue.leaves_none(
            request.share.key, cost, self.places.loads()
        )

    def _refuse_full(self, ahead: int, limits: QueueLimits) -> Rejected:
        elsewhere = self.places.waiting_elsewhere()[0]
        return refuse_full(len(self.queue) + elsewhere, ahead, limits)

    def _ahead(self, entry: Waiting[RequestT]) -> int:
        ahead = self.queue.ahead(entry.share, deadline=entry.deadline)
        return self.places.waiting_elsewhere()[1] + ahead

    def _limits(self, request: RequestT) -> QueueLimits:
        # While no replica serves, the queue's speed is unknown: only its length counts.
        moves = not self._holds or self._serves
        return QueueLimits(
            max_wait_seconds=min(
                self.route.longest_wait_seconds(self.places.first_token_seconds(request)),
                request.max_wait_seconds,
            ),
            sequences_in_flight=self.places.sequences_in_flight(),
            service_seconds=self.service.value if moves else 0.0,
        )
