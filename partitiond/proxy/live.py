"""The live side of a routing table: who is in flight where, and who waits.

What counts as load is a set of live `Flight` objects per replica. Its sums change only together
with the set, in two places, and leaving twice is harmless; so counts cannot drift whatever fails.
All decisions are `core.balance`'s and `core.admission`'s.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Collection, Iterable

from partitiond.core.admission import (
    OutputP90,
    PromptRatios,
    QueueLimits,
    Rejected,
    ServiceTime,
    Waiting,
    admits,
    refuse_full,
    refuse_too_late,
    refuse_unreachable,
    refuse_without_replica,
    waits_for_replica,
)
from partitiond.core.balance import (
    RetryBudget,
    Slowness,
    choose_replica,
    is_eligible,
)
from partitiond.core.fair_queue import FairQueue, expire
from partitiond.core.routing import (
    NO_REQUEST_LIMITS,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RequestLimits,
)
from partitiond.proxy.attraction import Attraction
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.desk import PLACE, TOKENISING_SECONDS, choose_desk
from partitiond.proxy.flights import Flight
from partitiond.proxy.line import TICK_SECONDS, seat_to_hold
from partitiond.proxy.replicas import LiveReplica
from partitiond.proxy.shared import PeerLine, Peers


class LiveModel:
    """One model: its replicas, its queue and what was learned of its requests.

    Attributes:
        max_model_len: longest context any replica has; 0 where unknown.
        limits: of one request, or None.
        ratios: tokens per prompt byte, by key.
        queue: of requests for a slot.
        desk_queue: of requests that take none (see `desk`).
        held: requests that waited while a change or a wake-up left it without a replica.
        turned_away: requests refused at once because of such an outage.
        busy_at: when a request last came or left, by `time.monotonic`.
    """

    def __init__(self, route: ModelRoute, peers: Peers | None = None) -> None:
        self.route = route
        self.peers = peers
        self.line: PeerLine | None = None if peers is None else peers.line(route.name)
        self._tick_timer: asyncio.TimerHandle | None = None
        self.replicas: dict[str, LiveReplica] = {}
        self.retired: list[LiveReplica] = []
        self.queue: FairQueue[Flight] = FairQueue(route.max_queue)
        self.desk_queue: FairQueue[Flight] = FairQueue(route.max_queue)
        self._desk_time = ServiceTime(TOKENISING_SECONDS)
        self.slowness = Slowness()
        self.attraction = Attraction()
        self.retries = RetryBudget()
        self.limits: RequestLimits | None = None
        self.ratios = PromptRatios()
        self.output_p90 = OutputP90()
        self.service = ServiceTime()
        self.removed = False
        self.max_model_len = 0
        self._serves = False
        self.held = 0
        self.turned_away = 0
        self.busy_at = time.monotonic()

    def idle_seconds(self, now: float) -> float:
        """How long it has had no request; 0 while one waits or runs."""
        if self.waiting or any(replica.flights for replica in self.everyone()):
            return 0.0
        return max(0.0, now - self.busy_at)

    @property
    def waiting(self) -> int:
        """Requests that wait, in either queue."""
        return len(self.queue) + len(self.desk_queue)

    @property
    def sequences_in_flight(self) -> int:
        """In all replicas."""
        return sum(replica.sequences for replica in self.replicas.values())

    def place(self, flight: Flight, *, again: bool = False) -> LiveReplica | Rejected | None:
        """A replica at once; or why not; or None, and the flight's owner is told later.

        Args:
            again: it was admitted before (a retry): it goes to the front, and is not refused for
                the queue's length.
        """
        self.busy_at = time.monotonic()
        if not self._serves:
            self._hold(flight, 0.0)
        if not self._anyone_for(flight):
            self.turned_away += int(self._holds)
            return self._no_replica()
        queue = self._queue_of(flight)
        if again or not queue:
            chosen = self._start_at_once(flight, again=again)
            if chosen is not None:
                if not again:
                    share = flight.share
                    queue.charge(
                        share.key,
                        flight.cost.kv_tokens or 1,
                        weight=share.weight,
                        priority=share.priority,
                    )
                return chosen
        return self._wait(flight, again=again)

    def _start_at_once(self, flight: Flight, *, again: bool) -> LiveReplica | None:
        """Choose and take a place; with workers under their lock, unless somebody waits in one."""
        line = self.line
        if not flight.cost.sequences:
            chosen = self._choose_desk(flight)
            if chosen is not None:
                chosen.add(flight)
            return chosen
        if line is None:
            chosen = self._choose(flight)
            if chosen is not None:
                chosen.add(flight)
            return chosen
        line.acquire()
        try:
            if line.others_wait() and not again:
                return None
            line.refresh(self.replicas.values())
            chosen = self._choose(flight)
            if chosen is not None:
                chosen.add(flight)
            return chosen
        finally:
            line.release()

    def _wait(self, flight: Flight, *, again: bool) -> Rejected | None:
        """Into the queue, from where it may start at once; or why not."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        limits = self._limits(flight)
        share = flight.share
        entry = Waiting(
            flight,
            flight.cost if flight.cost.sequences else PLACE,
            now,
            now + limits.max_wait_seconds,
            flight.tried,
            key=share.key,
            weight=share.weight,
            priority=share.priority,
            prefer=flight.prefer,
        )
        ahead = 0
        if not again:
            ahead = self._ahead(entry)
            late = refuse_too_late(ahead, limits.max_wait_seconds, limits)
            if late is not None:
                return late
        without_place = self._push(entry, again=again)
        if without_place is entry:
            return self._refuse_full(flight, ahead, limits)
        flight.entry = entry
        flight.timer = loop.call_at(entry.deadline, self._expire, entry)
        if without_place is not None:
            # Last, because its client's next request may come to take this one's place in turn.
            self._refuse(without_place, self._refuse_full(flight, ahead, limits))
        self.dispatch()
        return None

    def _push(self, entry: Waiting[Flight], *, again: bool) -> Waiting[Flight] | None:
        """Join the queue, whose bound is for all workers together."""
        line = self.line
        queue = self._queue_of(entry.item)
        if line is None or queue is self.desk_queue:
            return queue.push(entry, front=again)
        line.acquire()
        try:
            room = self.route.max_queue - line.waiting_elsewhere()[0]
            self.queue.max_entries = max(room, 1)
            if room < 1 and not self.queue and not again:
                return entry
            without_place = self.queue.push(entry, front=again)
            self._tell_others(line)
        finally:
            line.release()
        return without_place

    def _queue_of(self, flight: Flight) -> FairQueue[Flight]:
        return self.queue if flight.cost.sequences else self.desk_queue

    def _waiting_elsewhere(self, flight: Flight) -> tuple[int, int]:
        """(requests, sequences) of other workers that wait for the same places."""
        if self.line is None or not flight.cost.sequences:
            return 0, 0
        return self.line.waiting_elsewhere()

    def _refuse_full(self, flight: Flight, ahead: int, limits: QueueLimits) -> Rejected:
        elsewhere = self._waiting_elsewhere(flight)[0]
        return refuse_full(len(self._queue_of(flight)) + elsewhere, ahead, limits)

    def _ahead(self, entry: Waiting[Flight]) -> int:
        return self._waiting_elsewhere(entry.item)[1] + self._queue_of(entry.item).ahead(
            key=entry.key,
            weight=entry.weight,
            priority=entry.priority,
            deadline=entry.deadline,
        )

    def stop_waiting(self, flight: Flight) -> None:
        """Its client has left; harmless when it does not wait."""
        entry = flight.entry
        if entry is None or not self._taken_out(entry):
            return
        if self._queue_of(flight).discard(entry):
            self.dispatch()

    def _taken_out(self, entry: Waiting[Flight]) -> bool:
        """Its waiting is over, for whatever reason; False when it was before."""
        flight = entry.item
        if flight.entry is not entry:
            return False
        flight.entry = None
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None
        return True

    def dispatch(self) -> None:
        """Start whoever may start now, in order."""
        line = self.line
        while self.desk_queue:
            started = self._start_next_at_desk()
            if started is None:
                break
            _tell_placed(started[0], started[1])
        while self.queue:
            if line is None:
                started = self._start_next(self.replicas.values())
            else:
                started = self._start_next_of_all(line)
            if started is None:
                break
            _tell_placed(started[0], started[1])
        if line is not None:
            self._tell_others(line)
            if line.others_wait():
                line.hand_on(self.replicas.values())
            if self.queue and self._tick_timer is None:
                loop = asyncio.get_running_loop()
                self._tick_timer = loop.call_later(TICK_SECONDS, self._tick)

    def _start_next(self, replicas: Collection[LiveReplica]) -> tuple[Flight, LiveReplica] | None:
        """Take a place for the next of the queue, if there is one for it."""
        slow = self.slowness.factors(time.monotonic())
        while True:
            taken = self.queue.take(replicas, random.random, slow)
            if taken is None:
                return None
            entry, replica = taken
            if self._taken_out(entry):
                replica.add(entry.item)
                return entry.item, replica

    def _start_next_at_desk(self) -> tuple[Flight, LiveReplica] | None:
        """The same for the next of those that take no slot."""
        desks = [replica.desk for replica in self.replicas.values()]
        while (taken := self.desk_queue.take(desks, random.random)) is not None:
            entry, desk = taken
            if self._taken_out(entry):
                desk.replica.add(entry.item)
                return entry.item, desk.replica
        return None

    def tokenised(self, seconds: float) -> None:
        """A request that took no slot has left its replica."""
        self._desk_time = self._desk_time.observe(seconds)

    def _start_next_of_all(self, line: PeerLine) -> tuple[Flight, LiveReplica] | None:
        """The same where others may wait in other workers (see `ledger`)."""
        urgency = self.queue.urgency()
        now = asyncio.get_running_loop().time()
        line.acquire()
        try:
            everyone = list(self.replicas.values())
            places, yields = line.open_to(everyone, math.inf if urgency is None else urgency, now)
            if yields:
                return None
            started = self._start_next(places) if places else None
            if started is None:
                for oldest in itertools.islice(self.queue, 1):
                    seat = seat_to_hold(places, oldest.tried, oldest.since, now)
                    line.hold(seat, oldest)
                line.looked()
            self._tell_others(line)
            return started
        finally:
            line.release()

    def _tell_others(self, line: PeerLine) -> None:
        queue = self.queue
        if queue:
            line.waits(len(queue), queue.sequences, queue.urgency())
        else:
            line.waits_no_more()

    def _tick(self) -> None:
        """With workers: places may have come free in others, and nobody said so."""
        self._tick_timer = None
        self.dispatch()

    def replicas_changed(self) -> None:
        """A replica was left out or came back: look at who waits for it."""
        self._look_who_serves()
        self.dispatch()
        self._refuse_hopeless()

    def _refuse_hopeless(self) -> None:
        """Answer those who wait for replicas that are all gone."""
        waiting = itertools.chain(self.queue, self.desk_queue)
        hopeless = [entry for entry in waiting if not self._anyone_for(entry.item)]
        now = asyncio.get_running_loop().time() if hopeless else 0.0
        held = [entry for entry in hopeless if self._hold(entry.item, now - entry.since)]
        for entry in hopeless:
            if entry not in held:
                self.turned_away += int(self._holds)
                self._refuse(entry, self._no_replica())
        for entry in reversed(held):  # each goes to the front
            self._wait_longer(entry)

    def _hold(self, flight: Flight, waited_seconds: float) -> bool:
        """Whether it may wait for a replica that is coming, from now on or already."""
        if not flight.held and self._holds and not flight.tried:
            longest = min(self.route.max_wait_seconds, flight.max_wait_seconds) - waited_seconds
            flight.held = waits_for_replica(self._ready_in(), longest)
            self.held += int(flight.held)
        return flight.held and not flight.tried and self._comes_back

    def _wait_longer(self, entry: Waiting[Flight]) -> None:
        """Its model serves nobody now: who waits for a place waits for a replica, and not for as
        long as a place may take.
        """
        flight = entry.item
        self._queue_of(flight).discard(entry)
        if self._taken_out(entry):
            refused = self._wait(flight, again=True)
            if refused is not None:
                flight.owner.refused(refused)

    def _expire(self, entry: Waiting[Flight]) -> None:
        if not self._has_replica():
            self._refuse(entry, self._no_replica())
            return
        now = asyncio.get_running_loop().time()
        flight = entry.item
        elsewhere = self._waiting_elsewhere(flight)[1]
        rejected = expire(self._queue_of(flight), entry, now, self._limits(flight), elsewhere)
        self._refuse(entry, rejected)
        self.dispatch()  # it may have kept a replica for itself

    def _refuse(self, entry: Waiting[Flight], rejected: Rejected) -> None:
        self._queue_of(entry.item).discard(entry)
        if self._taken_out(entry):
            owner = entry.item.owner
            try:
                owner.refused(rejected)
            except Exception:  # noqa: BLE001 -- the owner logs it; it is not its neighbour's fault
                owner.crashed()

    def _choose(self, flight: Flight) -> LiveReplica | None:
        if len(self.replicas) == 1:
            (only,) = self.replicas.values()
            fits = admits(only, flight.cost) and is_eligible(only, flight.tried)
            return only if fits else None
        slow = self.slowness.factors(time.monotonic())
        room = [
            replica
            for replica in self.replicas.values()
            if admits(replica, flight.cost, slow.get(replica.replica_id, 1.0))
        ]
        draws = (random.random(), random.random())  # noqa: S311 -- balance, no secret
        return choose_replica(room, flight.tried, draws, prefer=flight.prefer, slowness=slow)

    def has_another_for(self, flight: Flight) -> bool:
        """Whether a replica could take it that has not failed it yet."""
        return any(is_eligible(replica, flight.tried) for replica in self.replicas.values())

    def _choose_desk(self, flight: Flight) -> LiveReplica | None:
        desks = (replica.desk for replica in self.replicas.values())
        return choose_desk(desks, flight.tried, random.random)

    def _anyone_for(self, flight: Flight) -> bool:
        """Whether waiting makes sense: an ejected replica comes back, but a retry is not kept, and
        nobody knows when one comes back that nobody listens on.

        A request that came while the model slept, or is held while a replica starts, waits although
        none is there; also when that takes longer than the request has.
        """
        if flight.tried:
            return self.has_another_for(flight)
        return self._has_replica() or (flight.held and self._comes_back)

    def _has_replica(self) -> bool:
        return self._serves

    @property
    def _holds(self) -> bool:
        """Whether requests wait for it to wake, or for a replica that starts."""
        availability = self.route.availability
        coming = (
            availability is ModelAvailability.SLEEPING or availability is ModelAvailability.STARTING
        )
        return coming and self.route.holds and not self.removed

    @property
    def _comes_back(self) -> bool:
        starting = self.route.availability is ModelAvailability.STARTING
        # A table may still say "serving" with all its replicas draining: the next one is coming.
        serving = self.route.availability is ModelAvailability.SERVING
        return self._holds or ((starting or serving) and not self.removed)

    def _ready_in(self) -> float:
        """Seconds until a replica should serve; not positive where it is due, or not known."""
        at = self.route.ready_at
        return at - time.monotonic() if at > 0 else 0.0

    def _no_replica(self) -> Rejected:
        # A table may say "serving" while its last replica drains for the next one to come.
        availability = self.route.availability
        if self.removed:
            availability = ModelAvailability.UNAVAILABLE
        elif any(not replica.draining for replica in self.replicas.values()):
            return refuse_unreachable(self.route.name)
        soon = self._ready_in()
        retry_after = soon if soon > 0 else self.route.retry_after_seconds
        return refuse_without_replica(self.route.name, availability, retry_after)

    def _limits(self, flight: Flight) -> QueueLimits:
        # While nobody serves, how fast the queue will move is not known: only its length counts.
        moves = not self._holds or self._has_replica()
        if flight.cost.sequences:
            in_flight, seconds = self.sequences_in_flight, self.service.seconds
        else:
            in_flight = sum(replica.desk.sequences for replica in self.replicas.values())
            seconds = self._desk_time.seconds
        return QueueLimits(
            max_queue=self._queue_of(flight).max_entries,
            max_wait_seconds=min(self.route.max_wait_seconds, flight.max_wait_seconds),
            sequences_in_flight=in_flight,
            service_seconds=seconds if moves else 0.0,
        )

    def apply(
        self, route: ModelRoute, routes: Iterable[ReplicaRoute], options: ProxyOptions
    ) -> None:
        """Take over a newer table without touching what is in flight."""
        self.route = route
        self.queue.max_entries = route.max_queue
        self.desk_queue.max_entries = max(1, route.max_queue // options.workers)
        self.limits = None if route.limits == NO_REQUEST_LIMITS else route.limits
        self.attraction.keep_for(options.affinity_seconds)
        self.retries.share = options.retry_share
        wanted = {replica.replica_id: replica for replica in routes}
        for replica_id, replica in list(self.replicas.items()):
            new = wanted.get(replica_id)
            if new is None or not replica.is_same_process(new):
                del self.replicas[replica_id]
                self.slowness.forget(replica_id)
                self.attraction.forget(replica_id)
                replica.draining = True
                replica.pool.close()
                self.retired.append(replica)
        for replica_id, new in wanted.items():
            known = self.replicas.get(replica_id)
            if known is None:
                if not self.replicas:
                    self.service = ServiceTime(new.service_seconds)
                self.replicas[replica_id] = LiveReplica(self, new, options)
            else:
                known.apply(new)
        self.retired = [replica for replica in self.retired if replica.flights]
        current = self.replicas.values()
        self._look_who_serves()
        self.max_model_len = max((r.route.max_model_len for r in current), default=0)
        self.dispatch()
        self._refuse_hopeless()

    def _look_who_serves(self) -> None:
        self._serves = any(not (r.draining or r.is_dead) for r in self.replicas.values())

    def remove(self) -> None:
        """The model is in no table any more; what runs finishes, who waits is refused."""
        self.removed = True
        self.apply(self.route, (), ProxyOptions())

    def everyone(self) -> Iterable[LiveReplica]:
        """Replicas, and processes that were replaced but still have requests in flight."""
        yield from self.replicas.values()
        yield from self.retired


def _tell_placed(flight: Flight, replica: LiveReplica) -> None:
    owner = flight.owner
    try:
        owner.placed(replica)
    except Exception:  # noqa: BLE001 -- the owner logs it; it is not its neighbour's fault
        owner.crashed()
