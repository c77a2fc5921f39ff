"""Tracks one engine process: the requests in flight on it, and its recent health.

A replica is dead if no process listens on its socket: no request goes there until a probe connects.
Requests that could not connect were never sent, and go to other replicas as if they had not tried.
"""

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final

from partitiond.core.dispatch.balance import HEALTHY, after_failure
from partitiond.core.dispatch.quarantine import Quarantine, RetryVerdict
from partitiond.core.dispatch.routing import ReplicaRoute
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.flights import Flight
from partitiond.proxy.dispatch.tokenise_slots import TokeniseSlots
from partitiond.proxy.engine.upstream import ConnectionPool
from partitiond.proxy.telemetry.counters import BusyTime

if TYPE_CHECKING:
    from partitiond.proxy.dispatch.live import LiveModel

PROBE_SECONDS: Final = 0.25
"""Interval of probing a dead replica: shorter than the second that clients are told to wait if all
replicas are dead. At some 20 us a probe, this costs next to nothing even for a hundred replicas."""


class LiveReplica:
    """One engine process and its requests in flight. Has the fields of `balance.Load`.

    Attributes:
        work: counts of its work.
        desk: for requests that take no slot.
        is_dead: no process listened on its socket at the last probe.
        ejected: excluded for now, because it is dead or failed too often.
        fingerprint: the engine's `system_fingerprint`, once a stream had it (see `events`).
    """

    def __init__(self, model: "LiveModel", route: ReplicaRoute, options: ProxyOptions) -> None:
        self.model = model
        self.route = route
        self.pool = ConnectionPool(
            route.socket_path,
            connect_timeout_seconds=options.connect_timeout_seconds,
            idle_seconds=options.idle_connection_seconds,
        )
        self.replica_id = route.replica_id
        self.seat = -1 if model.peers is None else model.peers.seat(route)
        self.flights: set[Flight] = set()
        self.work = BusyTime()
        self.desk = TokeniseSlots(self, options.workers)
        self.sequences = 0
        self.kv_tokens = 0
        self.fingerprint: bytes | None = None
        self.is_dead = False
        self._death_judged = False
        self.health = HEALTHY
        self.ejected = False
        self._return_timer: asyncio.TimerHandle | None = None
        self.apply(route)

    def apply(self, route: ReplicaRoute) -> None:
        """Take over limits and draining from a newer table."""
        self.route = route
        self.max_sequences = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining

    def is_same_process(self, route: ReplicaRoute) -> bool:
        """Whether the route still refers to the engine that we have connections to."""
        mine = self.route
        return mine.generation == route.generation and mine.socket_path == route.socket_path

    def add(self, flight: Flight) -> None:
        """Count a request that starts here."""
        if flight not in self.flights:
            now = time.monotonic()
            if not self.flights:
                self.work.busy_since = now
            self.flights.add(flight)
            self.sequences += flight.cost.sequences
            self.kv_tokens += flight.cost.kv_tokens
            if not flight.cost.sequences:
                self.desk.sequences += 1
            line = self.model.line
            if line is not None:
                line.took(self.seat, flight.cost)
            flight.replica = self
            flight.placed_at = now

    def remove(self, flight: Flight) -> None:
        """Remove a request that has left, and start waiting requests."""
        if flight in self.flights:
            self.flights.discard(flight)
            self.sequences -= flight.cost.sequences
            self.kv_tokens -= flight.cost.kv_tokens
            line = self.model.line
            if line is not None:
                line.gave(self.seat, flight.cost)
            flight.replica = None
            now = self.model.busy_at = time.monotonic()
            if not flight.cost.sequences:
                self.desk.sequences -= 1
                self.model.tokenised(now - flight.placed_at)
            spent = flight.cost.sequences * (now - flight.placed_at)
            flight.engine_seconds += spent
            work = self.work
            work.sequence_seconds += spent
            if not self.flights:
                work.busy_seconds += now - work.busy_since
            self.model.dispatch()

    @property
    def own_sequences(self) -> int:
        """Sequences of this process; `sequences` counts all workers."""
        return sum(flight.cost.sequences for flight in self.flights)

    @property
    def own_kv_tokens(self) -> int:
        """KV tokens of this process; `kv_tokens` counts all workers."""
        return sum(flight.cost.kv_tokens for flight in self.flights)

    def failed(self) -> None:
        """Count a failed attempt, which may eject the replica for a while."""
        self.work.failed += 1
        if self.is_dead:
            return  # it is excluded until a process listens, which begins without failures
        loop = asyncio.get_running_loop()
        # The replicas that would remain.
        others = [
            replica
            for replica in self.model.replicas.values()
            if replica is not self and not (replica.is_dead or replica.draining)
        ]
        now = loop.time()
        self.health = after_failure(
            self.health,
            now,
            ejected_others=sum(r.ejected for r in others),
            replicas=len(others) + 1,
        )
        if self.health.is_ejected(now) and not self.ejected:
            self.ejected = True
            self.model.replicas_changed()
            if self._return_timer is None:
                self._return_timer = loop.call_at(self.health.ejected_until, self._return)

    def connect_failed(self) -> bool:
        """Return whether connecting failed because no process listens; if so, eject."""
        if not self.is_dead and not listens(self.route.socket_path):
            self._withdraw()
        return self.is_dead

    def look_for_death(self, quarantine: Quarantine) -> None:
        """Judge the requests in flight after a connection broke, if nothing listens any more.

        All suspects are marked before any request is sent elsewhere. A failed connect makes none:
        an engine that ends in order stops listening, and finishes its requests.
        """
        if self._death_judged or listens(self.route.socket_path):
            return
        self._death_judged = True
        now = time.monotonic()
        flights = list(self.flights)
        verdicts = quarantine.died(
            [flight.owner.exposure(now) for flight in flights], now, external=self.draining
        )
        for flight, verdict in zip(flights, verdicts, strict=True):
            if verdict is RetryVerdict.REFUSE:
                flight.owner.suspected()
        if not self.is_dead:
            self._withdraw()

    def _withdraw(self) -> None:
        """Send nothing to the replica until a process listens on its socket."""
        self.is_dead = self.ejected = True
        asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)
        self.model.replicas_changed()

    def look_again(self) -> None:
        """Take a dead replica back once a process listens; stop probing once it left the table."""
        if self.model.replicas.get(self.replica_id) is not self:
            return
        if not listens(self.route.socket_path):
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)
            return
        self.is_dead = self._death_judged = self.ejected = False
        self.health = HEALTHY  # another process
        self.model.replicas_changed()

    def succeeded(self) -> None:
        """Reset the failures after a success; a dead replica, which still finishes, stays out."""
        if self.health is not HEALTHY:
            self.health = HEALTHY
            self.ejected = self.is_dead

    def _return(self) -> None:
        """End the ejection, unless a success ended it and another one began meanwhile."""
        self._return_timer = None
        loop = asyncio.get_running_loop()
        if self.health.is_ejected(loop.time()):
            self._return_timer = loop.call_at(self.health.ejected_until, self._return)
            return
        self.ejected = self.is_dead
        self.model.dispatch()


def listens(path: str) -> bool:
    """Whether a process listens on a Unix socket. Connecting to a Unix socket never waits."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # as a full backlog: somebody is there
            return True
    return True
