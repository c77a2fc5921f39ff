"""Tracks one engine process: the requests in flight on it, and its recent health.

A request and its replica change only together: the replica's sums, its places for requests that
take no slot, and the way back out of each of them.

A replica is dead if no process listens on its socket: no request goes there until a probe connects.
Requests that could not connect were never sent, and go to other replicas as if they had not tried.
"""

import asyncio
import random
import socket
import time
from typing import Final

from partitiond.core.demand.traffic import ReplicaCount
from partitiond.core.dispatch.pace import Pace
from partitiond.core.dispatch.quarantine import Quarantine, RetryVerdict
from partitiond.core.dispatch.reputation import FAILURES, LOOK_AGAIN_SECONDS, Reputation, Trust
from partitiond.core.dispatch.routing import ModelRoute, ReplicaRoute
from partitiond.core.units import KIB
from partitiond.platform.unix_socket import socket_address
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.live_requests import AnyReplica, LiveRequest
from partitiond.proxy.dispatch.shared import LedgerAccess
from partitiond.proxy.dispatch.worker_queue import WorkerQueue
from partitiond.proxy.engine.upstream import ConnectionPool, UpstreamConnection

PROBE_SECONDS: Final = 0.25
"""Interval of probing a dead replica: shorter than the second that clients are told to wait if all
replicas are dead. At some 20 us a probe, this costs next to nothing even for a hundred replicas."""
TOKENISING_AT_ONCE: Final = 4
"""Per replica, all workers together. An engine tokenises in one thread (vLLM: its renderer has one
worker by default): one request keeps it busy, and a few more cover the round trip. Chosen."""
TOKENISING_BYTES: Final = 256 * KIB
"""Bytes of their bodies, per replica, all workers together; a larger one goes alone. Prompts that
have a slot wait behind them, half a second at the 0.5 MiB/s of vLLM on a CPU. Chosen."""
TOKENISING_SECONDS: Final = 0.01
"""First guess of the time of one request, until it is learned: some 100 KB of text."""


class TokeniseSlots:
    """A replica's places for requests that take no slot (tokenising): `balance.LoadView`'s fields,
    with bytes in place of KV tokens.

    Such requests cost the device nothing, but they pass through the engine process that reads all
    prompts. Without a bound, a flood of them would block prompts that have a slot (head-of-line
    blocking).

    Attributes:
        sequences: requests of this worker that are in flight here.
        max_sequences: the limit for `sequences`.
        kv_tokens: bytes of these requests.
        kv_cache_tokens: the limit for `kv_tokens`.
    """

    def __init__(self, replica: "LiveReplica", workers: int) -> None:
        self.replica = replica
        self.replica_id = replica.replica_id
        self.sequences = self.kv_tokens = 0
        self.max_sequences = self.batch = max(1, TOKENISING_AT_ONCE // workers)
        self.kv_cache_tokens = TOKENISING_BYTES // workers

    @property
    def draining(self) -> bool:
        """The replica admits nothing new."""
        return self.replica.draining

    @property
    def ejected(self) -> bool:
        """The replica is excluded for now because it failed."""
        return self.replica.ejected

    @property
    def doubt(self) -> Trust:
        """How much it failed."""
        return self.replica.doubt


class ReplicaGroup:
    """The replicas of one model as each of them sees the others; `LiveModel` is the only kind.

    Attributes:
        ledger: of several workers, or None.
        shared: this worker's part of the queue of several workers, or None.
        replicas: those of the table, by their ids.
        busy_at: when a request last came or left, by `time.monotonic`.
    """

    def __init__(self, model: str, ledger: LedgerAccess | None) -> None:
        self.ledger = ledger
        self.shared: WorkerQueue | None = None if ledger is None else ledger.queue(model)
        self.replicas: dict[str, LiveReplica] = {}
        self.busy_at = time.monotonic()

    def tokenised(self, seconds: float) -> None:
        """Learn the service time of a request without a slot that has left its replica."""
        raise NotImplementedError

    def dispatch(self) -> None:
        """Carry out the decisions due now: start requests in order."""
        raise NotImplementedError

    def replicas_changed(self) -> None:
        """Reconsider the waiting requests, because a replica's reputation has changed."""
        raise NotImplementedError


class LiveReplica(AnyReplica):
    """One engine process and its requests in flight. Has the fields of `balance.Load`.

    Attributes:
        work: counts of its work; those of requests in flight are added when the counts are read.
        busy_since: when the first of the requests in flight came, by `time.monotonic`.
        tokenising: for requests that take no slot.
        reputation: what its requests' ends say of it.
        pace: what was learned of the engine's speed.
    """

    def __init__(
        self, model: ReplicaGroup, of: ModelRoute, route: ReplicaRoute, options: ProxyOptions
    ) -> None:
        super().__init__(route.replica_id)
        self.model = model
        self.route = route
        self.pool = ConnectionPool(route.socket_path)
        self.column = -1 if model.ledger is None else model.ledger.column(route)
        self.requests: set[LiveRequest] = set()
        self.work = ReplicaCount(route.model, route.generation)
        self.busy_since = 0.0
        self.tokenising = TokeniseSlots(self, options.workers)
        self.sequences = 0
        self.kv_tokens = 0
        # Another worker of this host, and a proxy that is started again, number in other ranges.
        self.reputation = Reputation(random.getrandbits(48))
        self._trial: LiveRequest | None = None
        self.pace = Pace()
        self.apply(of, route)

    def apply(self, model: ModelRoute, route: ReplicaRoute) -> None:
        """Take over limits and draining from a newer table."""
        self.route = route
        self.pace.apply(route.max_sequences, model.ttft_seconds, model.tpot_seconds)
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining

    @property
    def batch(self) -> int:
        """Batch of its plan; it may take less now."""
        return self.route.max_sequences

    @property
    def max_sequences(self) -> int:
        """Sequences that it takes now."""
        return self.pace.most_sequences(self.sequences)

    def is_same_process(self, route: ReplicaRoute) -> bool:
        """Whether the route still refers to the engine that we have connections to."""
        mine = self.route
        return mine.generation == route.generation and mine.socket_path == route.socket_path

    def add(self, live: LiveRequest) -> None:
        """Count a request that starts here."""
        if live not in self.requests:
            now = time.monotonic()
            if not self.requests:
                self.busy_since = now
            self.requests.add(live)
            takes_slot = live.cost.sequences > 0  # else it says nothing of the engine's work
            shared = self.model.shared
            if takes_slot:
                self.sequences += live.takes.sequences
                self.kv_tokens += live.takes.kv_tokens
                if shared is not None:
                    shared.started(self.column, live.takes)
            else:
                self.tokenising.sequences += 1
                self.tokenising.kv_tokens += live.takes.kv_tokens
            if live.stream and live.cost.prompts == 1:
                self.pace.sent(live, live.cost.prompt_tokens, now)
                self._tell_unread()
            live.replica = self
            live.placed_at = now
            judged = self.reputation.failures >= FAILURES or self.reputation.proofs > 0
            if takes_slot and judged and self.doubt is Trust.GOOD:
                self._trial = live

    def first_token(self, live: LiveRequest, now: float) -> None:
        """Learn from the first token of a stream, which may make room for another prompt."""
        self.pace.first_token(live, now)
        self._tell_unread()
        self.model.dispatch()

    def decoded(self, live: LiveRequest, seconds: float, tokens: int, now: float) -> None:
        """Learn from tokens that a stream got in so many seconds."""
        before, of_sequence = self.pace.limit, seconds * live.takes.sequences
        if self.model.shared is not None:
            self.model.shared.refresh((self,))
        self.pace.decoded(of_sequence, float(tokens), self.sequences, now)
        limit = self.pace.limit
        if self.model.shared is not None:
            self.model.shared.tell_limit(self.column, limit if limit < self.batch else 0, now)
        if limit > before:
            self.model.dispatch()

    def unseen(self, live: LiveRequest) -> None:
        """Note that a stream's first token is not seen: its client does not read."""
        self.pace.unseen(live)
        self._tell_unread()

    def wait_for_first_token(self, live: LiveRequest, now: float) -> None:
        """Let others start if a stream's first token is overdue."""
        if self.pace.expire(live, now):
            self._tell_unread()
            self.model.dispatch()

    def _tell_unread(self) -> None:
        if self.model.shared is not None:
            self.model.shared.tell_unread(self.column, self.pace.unread_tokens)

    def reuse(self, now: float) -> UpstreamConnection | None:
        """Return an open connection to the engine, or None."""
        return self.pool.reuse(now)

    async def connect(self) -> UpstreamConnection:
        """Open a connection to the engine. Raises AttemptError."""
        return await self.pool.connect()

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """Take back a connection whose answer was relayed to its end."""
        assert isinstance(connection, UpstreamConnection)
        self.pool.release(connection, now)

    def remove(self, live: LiveRequest) -> None:
        """Remove a request that has left, and start waiting requests."""
        if live in self.requests:
            now = self.model.busy_at = time.monotonic()
            self.requests.discard(live)
            self.pace.left(live, now)
            self._tell_unread()
            shared = self.model.shared
            if live.cost.sequences:
                self.sequences -= live.takes.sequences
                self.kv_tokens -= live.takes.kv_tokens
                if shared is not None:
                    shared.ended(self.column, live.takes)
            else:
                self.tokenising.sequences -= 1
                self.tokenising.kv_tokens -= live.takes.kv_tokens
                self.model.tokenised(now - live.placed_at)
            live.replica = None
            if live is self._trial:
                self._trial = None
            work = self.work
            work.sequence_seconds += live.takes.sequences * (now - live.placed_at)
            if not self.requests:
                work.busy_seconds += now - self.busy_since
            self.model.dispatch()

    @property
    def own_sequences(self) -> int:
        """Sequences of this process; `sequences` counts all workers."""
        return sum(live.takes.sequences for live in self.requests)

    @property
    def own_kv_tokens(self) -> int:
        """KV tokens of this process; `kv_tokens` counts all workers."""
        return sum(live.takes.kv_tokens for live in self.requests if live.takes.sequences)

    # What it is sent, by how its requests end

    @property
    def is_dead(self) -> bool:
        """Whether no process listened on its socket at the last look."""
        return self.reputation.out

    @property
    def doubt(self) -> Trust:
        """What it is sent at this moment (`reputation`)."""
        if not (self.reputation.is_in_doubt or self.reputation.out):
            return Trust.GOOD  # without a look at the clock: each request asks each replica
        return self.reputation.trust(time.monotonic(), on_trial=self._trial is not None)

    @property
    def ejected(self) -> bool:
        """It is dead, or it is refused and another replica is not: a fault of all ejects none."""
        doubt = self.doubt
        return doubt is Trust.OUT or (
            doubt is Trust.REFUSED
            and any(
                not (one.draining or one.reputation.out or one.reputation.proofs)
                for one in self.model.replicas.values()
            )
        )

    def failed(self, source: str) -> int:
        """Count a failed attempt of a request of this source (see `AnyReplica.failed`)."""
        self.work.failed += 1
        number = self.reputation.failed(source, time.monotonic())
        if self.reputation.failures >= FAILURES:
            self.model.replicas_changed()
        return number

    def served_elsewhere(self, number: int) -> None:
        """Note that another replica has answered the request of the failure of this number."""
        self.reputation.served_elsewhere(number, time.monotonic())

    def succeeded(self) -> None:
        """Note a whole answer, which ends a series of failures."""
        self.reputation.succeeded()

    def connect_failed(self) -> bool:
        """Return whether connecting failed because no process listens; if so, withdraw it."""
        if not self.is_dead and not listens(self.route.socket_path):
            self._withdraw()
        return self.is_dead

    def look_for_death(self, quarantine: Quarantine, *, idle_end: bool) -> float:
        """Judge the requests in flight after a connection broke, if nothing listens any more.

        All suspects are marked before any request is sent elsewhere. A failed connect makes none:
        an engine that ends in order stops listening, and finishes its requests.

        Args:
            quarantine: of the proxy.
            idle_end: see `Reputation.broke`.

        Returns:
            Seconds after which to look again, before a request is sent elsewhere; 0 for not at all.
        """
        reputation = self.reputation
        if reputation.death_judged:
            return 0.0
        now = time.monotonic()
        is_over = reputation.broke(
            now,
            listens=listens(self.route.socket_path),
            idle_end=idle_end,
        )
        if not is_over:
            return LOOK_AGAIN_SECONDS if is_over is None else 0.0
        requests = [live for live in self.requests if live.placed_at <= reputation.broke_at]
        verdicts = quarantine.died(
            [live.owner.exposure(now) for live in requests], now, external=self.draining
        )
        for live, verdict in zip(requests, verdicts, strict=True):
            if verdict is RetryVerdict.REFUSE:
                live.owner.suspected()
        if not self.is_dead:
            self._withdraw()
        return 0.0

    def _withdraw(self) -> None:
        """Send nothing to the replica until a process listens on its socket."""
        self.reputation.out = True
        asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)
        self.model.replicas_changed()

    def look_again(self) -> None:
        """Take a dead replica back once a process listens; stop probing once it left the table."""
        if self.model.replicas.get(self.replica_id) is not self:
            return
        if not listens(self.route.socket_path):
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)
            return
        self.reputation = Reputation(self.reputation.number)  # another process
        self.model.replicas_changed()


def listens(path: str) -> bool:
    """Whether a process listens on a Unix socket. Connecting to a Unix socket never waits."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            with socket_address(path) as address:
                probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # as a full backlog: somebody is there
            return True
    return True
