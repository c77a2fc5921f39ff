"""Simulates several hosts that serve one model, each with a dispatcher of its own.

The dispatcher and its queue are those of the proxy, and so are the rules that choose a host and
move waiting requests. What lies between hosts is simulated: a message takes `HOP_SECONDS`, and
counts are told every `TELL_SECONDS` and come up to as much later. One proxy that knows all is the
same simulation with a single host that has all replicas.

A replica's steps take longer the fuller it is: a sequence in a full batch advances half as fast as
a lone one. Work is given in seconds of a full batch.
"""

import dataclasses
import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected, ServiceTime, Waiting, admits
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.fleet import (
    OWN_HOST,
    HostPolicy,
    choose_host,
    queue_share,
)
from partitiond.core.dispatch.host_moves import MovableRequest, choose_moves
from partitiond.core.dispatch.peer_loads import TELL_SECONDS, PeerCounts, PeerLoads
from partitiond.core.dispatch.places import Places, Request, RequestOwner
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.simulated.fleet.events import SimulatedClock

HOP_SECONDS: Final = 0.0005
MAX_WAIT_SECONDS: Final = 30.0
KV_TOKENS_EACH: Final = 400
"""KV tokens of a replica's cache per slot; a request takes 256 in the mean."""


class HostRequest(Request):
    """A request from its arrival to its end. Times are seconds of the simulation.

    Attributes:
        arrived: when the entry had it.
        work: seconds in a full batch.
        placed: when it started.
        replica_id: where it started.
        ended: when it ended.
        refusal: why it was refused in the end, or None.
        hops: times that it was sent to another host.
        fulls: times that a peer answered "full".
        moves: times that it was moved.
        in_vain: moves that came too late, or after which it waited again.
    """

    __slots__ = (
        "arrived",
        "ended",
        "entry_host",
        "fulls",
        "hops",
        "in_vain",
        "movable",
        "moves",
        "number",
        "peer",
        "placed",
        "refusal",
        "refused",
        "replica_id",
        "work",
    )  # fmt: skip

    def __init__(self, arrived: float, work: float, cost: Cost, owner: RequestOwner) -> None:
        super().__init__(cost, owner, MAX_WAIT_SECONDS)
        self.arrived = arrived
        self.work = work
        self.placed = self.ended = math.inf
        self.refusal: Rejected | None = None
        self.hops = self.fulls = self.moves = self.in_vain = 0
        self.entry_host: SimulatedHost
        self.movable: MovableRequest[HostRequest] | None = None
        self.refused: frozenset[str] = frozenset()
        self.peer: PeerLoads | None = None
        self.number = 0
        self.replica_id = ""


class HostReplica:
    """A replica with the fields of `balance.LoadView`, and its engine.

    Attributes:
        speed: of a full batch; 1 is usual.
        on_ended: called with each request that ends.
    """

    def __init__(self, clock: SimulatedClock, name: str, slots: int, speed: float) -> None:
        self.replica_id = name
        self.max_sequences = self.batch = slots
        self.kv_cache_tokens = slots * KV_TOKENS_EACH
        self.draining = self.ejected = False
        self.doubt = 0
        self.sequences = self.kv_tokens = 0
        self.speed = speed
        self.on_ended: Callable[[HostRequest, HostReplica], None] | None = None
        self._clock = clock
        self._worked = 0.0
        self._at = 0.0
        self._version = 0
        self._running: list[tuple[float, int, HostRequest]] = []
        self._numbers = itertools.count()

    def start(self, request: HostRequest) -> None:
        """Run the request."""
        self._advance()
        request.replica_id = self.replica_id
        self.sequences += request.cost.sequences
        self.kv_tokens += request.cost.kv_tokens
        heapq.heappush(self._running, (self._worked + request.work, next(self._numbers), request))
        self._plan()

    def _rate(self) -> float:
        return self.speed * 2 / (1 + self.sequences / self.max_sequences)

    def _advance(self) -> None:
        self._worked += (self._clock.now - self._at) * self._rate()
        self._at = self._clock.now

    def _plan(self) -> None:
        self._version += 1
        if self._running:
            left = max(0.0, self._running[0][0] - self._worked)
            version = self._version
            self._clock.at(self._clock.now + left / self._rate(), lambda: self._due(version))

    def _due(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        request = heapq.heappop(self._running)[2]
        self.sequences -= request.cost.sequences
        self.kv_tokens -= request.cost.kv_tokens
        self._plan()
        request.ended = self._clock.now
        assert self.on_ended is not None
        self.on_ended(request, self)


class HostPlaces(Places[HostRequest, HostReplica]):
    """Places that are checked against the limits whenever one is taken."""

    def __init__(self, replicas: list[HostReplica], draw: Callable[[], float]) -> None:
        super().__init__(replicas, draw)
        self.on_started: Callable[[HostRequest], None] = lambda _: None

    def add(self, load: HostReplica, request: HostRequest) -> None:
        """Start the request, which must fit."""
        assert admits(load, request.cost), "a batch is overshot"
        load.start(request)
        self.on_started(request)


class SimulatedHost:
    """One host: the entry of its own clients' requests, and the owner of its replicas."""

    def __init__(self, fleet: "SimulatedHosts", name: str, replicas: list[HostReplica]) -> None:
        self.fleet = fleet
        self.name = name
        self.clock = fleet.clock
        self.replicas = replicas
        places = HostPlaces(replicas, fleet.random.random)
        places.on_started = self._started
        for replica in replicas:
            replica.on_ended = self._ended
        self.dispatcher = Dispatcher[HostRequest, HostReplica](
            fleet.route, places, ServiceTime(1.0)
        )
        own = sum(replica.max_sequences for replica in replicas)
        most = queue_share(fleet.route.max_queue, own, fleet.slots)
        self.dispatcher.changed(0.0, route=fleet.route, most=most)
        self.max_waiting = most
        self.peers: dict[str, PeerLoads] = {}
        self.waiting: dict[HostRequest, MovableRequest[HostRequest]] = {}
        self._numbers: dict[str, int] = {}

    # The entry

    def arrive(self, request: HostRequest) -> None:
        """Take a request of a client."""
        request.entry_host = self
        self.route(request)

    def route(self, request: HostRequest) -> None:
        """Send the request to the host that the rules choose, or refuse it."""
        if not self.peers:
            self._stay(request)
            return
        choice = choose_host(
            self.dispatcher, self.peers.values(), request, now=self.clock.now,
            draws=self.fleet.draws(), refused=request.refused, policy=self.fleet.policy,
        )  # fmt: skip
        if choice is not None and choice.peer is not None:
            self.send(request, choice.peer, choice.replica_id)
        elif OWN_HOST not in request.refused:
            self._stay(request)

    def send(self, request: HostRequest, peer: PeerLoads, replica_id: str) -> None:
        """Send the request to a peer."""
        number = self._numbers[peer.host] = self._numbers.get(peer.host, 0) + 1
        peer.sent(number, request.cost, self.clock.now, replica_id)
        request.number, request.peer = number, peer
        request.hops += 1
        request.prefer = (replica_id,) if replica_id else ()
        owner = self.fleet.hosts[peer.host]
        self.fleet.later(lambda: owner.receive(request))

    def _stay(self, request: HostRequest) -> None:
        request.peer = None
        found = self.dispatcher.arrives(request, self.clock.now)
        if isinstance(found, Rejected):
            self.was_refused(request, OWN_HOST, found)
        elif isinstance(found, Waiting):
            self._watch(found)
            self.waits(request, OWN_HOST)
            self.go_on()

    def was_refused(self, request: HostRequest, host: str, refusal: Rejected) -> None:
        """Take a refusal, of a peer or the own host, and try another host."""
        self.waiting.pop(request, None)
        request.refusal = refusal
        if host != OWN_HOST:
            request.fulls += 1
            self.peers[host].refused(request.number)
        request.refused |= {host}
        if self.peers:
            self.route(request)

    def waits(self, request: HostRequest, host: str) -> None:
        """Note that the request waits at a host."""
        if request.placed < math.inf:
            return
        movable = request.movable
        if movable is None:
            movable = MovableRequest(request, self.clock.now, host)
            request.movable = movable
        movable.host = host
        if movable.moves:
            request.in_vain += 1
        self.waiting[request] = movable

    def told(self, name: str, counts: PeerCounts) -> None:
        """Take over a peer's counts, and move requests there."""
        peer = self.peers[name]
        peer.take_over(counts, self.clock.now)
        self._move(peer)

    def _move(self, target: PeerLoads | None) -> None:
        if not (self.waiting and self.peers):
            return
        moves = choose_moves(
            self.dispatcher, self.peers.values(), self.waiting.values(), target,
            now=self.clock.now, draw=self.fleet.random.random(), policy=self.fleet.policy,
        )  # fmt: skip
        for movable, replica_id in moves:
            self._take_back(movable, target, replica_id)

    def _take_back(
        self, movable: MovableRequest[HostRequest], target: PeerLoads | None, replica_id: str
    ) -> None:
        request = movable.request
        movable.moves += 1
        request.moves += 1
        del self.waiting[request]
        request.refused = movable.refused

        def given(waited: bool) -> None:
            if request.peer is not None:
                request.peer.ended(request.number)
            if not waited:
                request.in_vain += 1
                return
            request.max_wait_seconds = MAX_WAIT_SECONDS - (self.clock.now - movable.since)
            if target is None:
                self._stay(request)
            else:
                self.send(request, target, replica_id)

        if movable.host == OWN_HOST:
            given(self.dispatcher.leaves(request))
            return
        owner = self.fleet.hosts[movable.host]

        def leave() -> None:
            waited = owner.dispatcher.leaves(request)
            self.fleet.later(lambda: given(waited))

        self.fleet.later(leave)

    # The owner

    def receive(self, request: HostRequest) -> None:
        """Take a request from another entry."""
        entry, name = request.entry_host, self.name
        found = self.dispatcher.arrives(request, self.clock.now)
        if isinstance(found, Rejected):
            self.fleet.later(lambda: entry.was_refused(request, name, found))
        elif isinstance(found, Waiting):
            self._watch(found)
            self.fleet.later(lambda: entry.waits(request, name))
            self.go_on()

    def _started(self, request: HostRequest) -> None:
        request.placed = self.clock.now
        entry = request.entry_host
        entry.waiting.pop(request, None)

    def _ended(self, request: HostRequest, replica: HostReplica) -> None:
        # `learn` as the proxy does, but no slowness: the speeds here are as planned.
        self.dispatcher.service = self.dispatcher.service.observe(request.ended - request.placed)
        del replica
        peer, number = request.peer, request.number
        if peer is not None:
            self.fleet.later(lambda: peer.ended(number))
        self.go_on()

    def go_on(self) -> None:
        """Carry out the decisions that are due, then bring requests home if there is room."""
        while (decided := self.dispatcher.next_decision(self.clock.now)) is not None:
            request, outcome = decided
            if isinstance(outcome, Rejected):
                self._tell_refusal(request, outcome)
        self.fleet.look_at_queues()
        if not self.dispatcher.queue:
            self._move(None)

    def _tell_refusal(self, request: HostRequest, refusal: Rejected) -> None:
        entry = request.entry_host
        if entry is self:
            self.was_refused(request, OWN_HOST, refusal)
        else:
            self.fleet.later(lambda: entry.was_refused(request, self.name, refusal))

    def _watch(self, entry: Waiting[HostRequest]) -> None:
        def expire() -> None:
            if self.dispatcher.expires(entry, self.clock.now):
                self.go_on()

        self.clock.at(entry.deadline, expire)

    def tell(self) -> None:
        """Tell the counts to all other hosts, and again after `TELL_SECONDS`."""
        replicas = tuple(
            ReplicaLoad(
                load.replica_id, load.sequences, load.max_sequences, load.kv_tokens,
                load.kv_cache_tokens, load.draining, load.ejected,
            )
            for load in self.replicas
        )  # fmt: skip
        queue, seconds = self.dispatcher.queue, self.dispatcher.service.seconds
        for host in self.fleet.hosts.values():
            if host is not self:
                counts = PeerCounts(replicas, len(queue), queue.sequences, seconds)
                late = HOP_SECONDS + self.fleet.random.random() * self.fleet.late_seconds
                arrive = functools.partial(host.told, self.name, counts)
                self.clock.at(self.clock.now + late, arrive)
        self.clock.at(self.clock.now + TELL_SECONDS, self.tell)


@dataclasses.dataclass(frozen=True)
class HostsCase:
    """Hosts, where the model is, and what the clients send.

    Attributes:
        hosts: number of them; 1 is one proxy that knows all.
        spread: where the model has replicas: on all, half of them, or one.
        load: requests' work over the capacity with every slot taken.
        hot: share of the requests that come to one host, whether it serves or not; 0 for evenly.
        fleet: "equal" or "unequal" replicas.
        work: "exponential" or "heavy" tail.
        keys: one key, two of which one floods, or two that both want more than their share.
    """

    hosts: int
    spread: str = "all"
    load: float = 0.9
    hot: float = 0.0
    fleet: str = "equal"
    work: str = "exponential"
    keys: str = "one"

    @property
    def serving(self) -> int:
        """Number of hosts with replicas."""
        return {"all": self.hosts, "half": self.hosts // 2, "one": 1}[self.spread]


LIMITS: Final = {
    "equal": ((8, 1.0), (8, 1.0)),
    "unequal": ((4, 1.0), (16, 0.7), (8, 1.0), (32, 1.0)),
}


class SimulatedHosts:
    """The hosts of one case, with two replicas each.

    Attributes:
        queued: most requests that waited at once, at all hosts together.
    """

    def __init__(
        self,
        case: HostsCase,
        policy: HostPolicy,
        seed: int,
        *,
        together: bool = False,
        drawn: int = 2,
        late_seconds: float = TELL_SECONDS,
        host_class: type[SimulatedHost] = SimulatedHost,
    ) -> None:
        """
        Args:
            case: hosts and load.
            policy: of the entries.
            seed: of draws.
            together: whether one proxy knows all replicas.
            drawn: peers that are drawn for a choice; 0 for the best of all.
            late_seconds: how late counts come at most.
            host_class: how requests wait.
        """
        self.clock = SimulatedClock()
        self.random = random.Random(seed)
        self.policy = policy
        self.late_seconds = late_seconds
        self._drawn = drawn
        kinds = LIMITS[case.fleet]
        shapes = [
            [kinds[(2 * host + n) % len(kinds)] for n in range(2)] for host in range(case.serving)
        ]
        self.slots = sum(slots for shape in shapes for slots, _ in shape)
        self.capacity = sum(slots * speed for shape in shapes for slots, speed in shape)
        self.route = ModelRoute(
            "m", ModelAvailability.SERVING, "m", max_queue=self.slots,
            max_wait_seconds=MAX_WAIT_SECONDS,
        )  # fmt: skip
        self.queued = 0
        self.hosts: dict[str, SimulatedHost] = {}
        made = [
            [
                HostReplica(self.clock, f"r{host}.{n}", slots, speed)
                for n, (slots, speed) in enumerate(shape)
            ]
            for host, shape in enumerate(shapes)
        ]
        if together:
            made = [list(itertools.chain.from_iterable(made))]
        else:
            made += [[] for _ in range(case.hosts - case.serving)]
        for number, replicas in enumerate(made):
            self.hosts[f"h{number}"] = host_class(self, f"h{number}", replicas)
        for host in self.hosts.values():
            if host.replicas and len(self.hosts) > 1:
                for other in self.hosts.values():
                    if other is not host:
                        other.peers[host.name] = PeerLoads(host.name, host.max_waiting)
                self.clock.at(self.random.random() * TELL_SECONDS, host.tell)

    def draws(self) -> tuple[float, ...]:
        """Draw for one choice."""
        return tuple(self.random.random() for _ in range(self._drawn))

    def later(self, then: Callable[[], None]) -> None:
        """Call after the time of one hop."""
        self.clock.at(self.clock.now + HOP_SECONDS, then)

    def look_at_queues(self) -> None:
        """Note how many requests wait."""
        self.queued = max(
            self.queued, sum(len(host.dispatcher.queue) for host in self.hosts.values())
        )


class EntryQueueHost(SimulatedHost):
    """The alternative: requests wait at their entry, and are sent on only when a peer shows room.

    The owner starts such a request at once or gives it back. Each entry has an equal share of the
    queue's bound.
    """

    def route(self, request: HostRequest) -> None:
        """Start the request where there is room, or let it wait here."""
        if not self.peers:
            self._stay(request)
            return
        queue = self.dispatcher.queue
        if not queue:
            peers = [peer for peer in self.peers.values() if peer.host not in request.refused]
            choice = choose_host(
                self.dispatcher, peers, request, now=self.clock.now,
                draws=self.fleet.draws(), policy=self.fleet.policy,
            )  # fmt: skip
            if choice is not None and choice.replica_id and choice.peer is not None:
                self.send(request, choice.peer, choice.replica_id)
                return
        if self.replicas and self._start_here(request):
            return
        self._wait_here(request, front=False)

    def _start_here(self, request: HostRequest) -> bool:
        queue = self.dispatcher.queue
        if queue:
            return False
        share = request.share
        request.peer = None
        found = self.dispatcher.places.start(
            request, request.cost, self.dispatcher.slowness, self.clock.now, again=False
        )
        if found is not None:
            queue.charge(share.key, request.cost.kv_tokens, weight=share.weight)
        return found is not None

    def _wait_here(self, request: HostRequest, *, front: bool) -> None:
        now = self.clock.now
        queue = self.dispatcher.queue
        queue.max_entries = math.ceil(self.fleet.route.max_queue / len(self.fleet.hosts))
        entry = Waiting(
            request, request.cost, now, request.arrived + MAX_WAIT_SECONDS, key=request.share.key
        )
        displaced = queue.push(entry, front=front)
        if displaced is not None:
            displaced.item.refusal = Rejected(429, "queue_full", "", 1)
            displaced.item.entry = None
        if displaced is not entry:
            request.entry = entry
        self.go_on()

    def was_refused(self, request: HostRequest, host: str, refusal: Rejected) -> None:
        """Take back a request for which there was no room."""
        del refusal
        request.fulls += 1
        self.peers[host].refused(request.number)
        self._wait_here(request, front=True)

    def receive(self, request: HostRequest) -> None:
        """Start the request, or give it back."""
        entry = request.entry_host
        places = self.dispatcher.places
        if not self.dispatcher.queue and places.start(
            request, request.cost, self.dispatcher.slowness, self.clock.now, again=False
        ):
            return
        refusal = Rejected(429, "queue_full", "", 1)
        self.fleet.later(lambda: entry.was_refused(request, self.name, refusal))

    def _move(self, target: PeerLoads | None) -> None:
        """Send waiting requests, in the fair order, to a peer that shows room."""
        queue = self.dispatcher.queue
        if target is None or target.waiting or target.full:
            return
        everyone = len(queue) + sum(peer.waiting for peer in self.peers.values())
        free = target.free_sequences() * len(queue) / max(1, everyone)
        for _ in range(int(free + self.fleet.random.random())):
            taken = queue.take(target.replicas.values(), self.fleet.random.random)
            if taken is None:
                return
            taken[0].item.entry = None
            self.send(taken[0].item, target, taken[1].replica_id)
