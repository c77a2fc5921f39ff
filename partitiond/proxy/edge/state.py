"""Holds the proxy's whole state: the current table, its live models, and requests in flight."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final, Protocol

from partitiond.core.dispatch.fleet import QueueShares
from partitiond.core.dispatch.quarantine import Quarantine
from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, RoutingTable
from partitiond.core.keys.shared_room import SharedRoom
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.dispatch.shared import LedgerAccess
from partitiond.proxy.dispatch.table_file import TableFile
from partitiond.proxy.edge.hosts import AllowedHosts
from partitiond.proxy.edge.known_heads import KnownHeads
from partitiond.proxy.edge.origins import Cors
from partitiond.proxy.keys.accounts import Accounts
from partitiond.proxy.keys.auth import KeyRing
from partitiond.proxy.keys.budgets_file import BUDGETS_FILE
from partitiond.proxy.keys.last_word import LastWord
from partitiond.proxy.keys.meters import SiblingMeters
from partitiond.proxy.peers.known import Peers
from partitiond.proxy.peers.tls import PeerTls
from partitiond.proxy.telemetry import families
from partitiond.proxy.telemetry.logs import LogFile
from partitiond.proxy.telemetry.metrics import Gauges, ProxyMetrics
from partitiond.proxy.telemetry.traffic import RemovedKeys, process_traffic

SWEEP_SECONDS: Final = 0.05
"""Interval of checking time limits; a passed limit may be noticed this late. Chosen."""
SWEEP_SECONDS_EACH: Final = 0.0001
"""The interval is at least this for each request and connection: about 1 % of a core at most."""


class TimeLimited(Protocol):
    """Anything with time limits: a request that is read or served, or a client's connection."""

    def sweep(self, now: float) -> None:
        """Check whether a time limit has passed."""
        ...

    def on_bug(self) -> None:
        """End after a bug of ours in `sweep`; called inside `except`."""
        ...

    def shut_down(self) -> None:
        """End because the proxy shuts down: a connection once its request has its answer, a request
        that is read unless its body comes at once, a request that is served at once.
        """
        ...


class ClientConnection(TimeLimited, Protocol):
    """A client's connection, and the network that it is of (see `shared_room.network_of`)."""

    network: str

    def give_way(self) -> bool:
        """End the connection unless a request of it is served; return whether it was ended."""
        ...


class ProxyState:
    """The state that the data and the control listener share.

    Attributes:
        table: the last routing table.
        models: live models by name.
        names: the same by their names and aliases.
        exchanges: every request between admission and its end.
        reading: requests whose body has not arrived completely.
        bodies: bytes of large bodies, from their first byte to the end of their request.
        answers: those of large whole answers, from their first byte until their client has them.
        known_heads: heads of earlier requests.
        hosts: names that requests may be addressed to if no key is required.
        cors: origins that may call, or None for none.
        accounts: the use of each key.
        connections: open connections of clients, oldest first.
        networks: of these connections.
        says_goodbye: every answer says that its connection ends, so that clients open others.
        word: when the control plane was heard last.
        peers: the proxies of the other hosts.
        quarantine: requests that killed replicas, or may have.
        draining: the proxy is shutting down; set by `stop_admitting`.
    """

    def __init__(
        self,
        options: ProxyOptions,
        state_dir: Path,
        log: LogFile,
        siblings: LedgerAccess | None = None,
        tls: PeerTls | None = None,
    ) -> None:
        self.options = options
        self.log = log
        self._siblings = siblings
        self.peers = Peers(None if tls is None else lambda: tls.current().client)
        self.table = EMPTY_ROUTING_TABLE
        self.models: dict[str, LiveModel] = {}
        self.keys = KeyRing((), required=True)
        self.word = LastWord()
        self.exchanges: set[TimeLimited] = set()
        self.reading: set[TimeLimited] = set()
        self.bodies = SharedRoom(options.max_bodies_bytes, options.max_body_bytes)
        most = max(options.max_bodies_bytes, options.max_response_bytes)
        self.answers = SharedRoom(most, options.max_response_bytes)
        self.connections: dict[ClientConnection, None] = {}
        self.networks = SharedRoom(options.max_connections, 0)
        self.says_goodbye = False
        self.draining = False
        self.known_heads = KnownHeads()
        self.quarantine = Quarantine()
        # With several workers, the parent keeps the budgets, which count all workers together.
        self.accounts = Accounts(state_dir / BUDGETS_FILE if siblings is None else None)
        if siblings is not None:
            meters = SiblingMeters(siblings.ledger, siblings.row)
            self.accounts.others, self.accounts.publish = meters.others, meters.publish
        self.hosts = AllowedHosts(options.allowed_hosts)
        self.cors = Cors(options.cors_origins) or None
        self._all_ended: asyncio.Event | None = None
        self._all_closed: asyncio.Event | None = None
        self._date = (0, b"")
        self.names: dict[str, LiveModel] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self.metrics = ProxyMetrics(self._gauges)
        self._removed: list[LiveModel] = []
        self._removed_keys = RemovedKeys()
        self._state_dir = state_dir
        self._file = TableFile(state_dir)

    def load(self) -> None:
        """Take over the table on disk, if there is a readable one."""
        table = self._file.load()
        if table is not None:
            self.word.learn(table.keys_stale_seconds, self.word.at)
            self.take_over(table)

    def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table and store it on disk; return whether it was taken.

        Raises:
            NotKeptError: the table could not be written. It is in force all the same, as its routes
                and removed keys count now.
            OSError: nor could the former one be removed, which the next proxy would take.
        """
        if table.age < self.table.age:
            return False
        if table != self.table:
            self.take_over(table)
        self.word.hear(table.keys_stale_seconds)
        self._file.write(self.table)
        return True

    def take_over(self, table: RoutingTable) -> None:
        """Serve by a new table, without touching requests in flight."""
        self.table = table
        if table.keys_required != self.keys.required:
            self.known_heads = KnownHeads()  # without keys, heads need more checks
        self.keys = KeyRing(table.keys, required=table.keys_required, word=self.word)
        self.accounts.apply(table.keys, table.shares)
        wanted = {route.name for route in table.models}
        for name in [name for name in self.models if name not in wanted]:
            gone = self.models.pop(name)
            gone.remove()
            demand = self.metrics.model(name).demand
            demand.held += gone.held
            demand.turned_away += gone.turned_away
            self._removed.append(gone)
        self.peers.apply(table, self.models)
        for route in table.models:
            model = self.models.get(route.name)
            if model is None:
                model = self.models[route.name] = LiveModel(route, self._siblings)
            elif route.elsewhere and self.peers:
                self.peers.take_back(model)
            model.affinity.set_peers(there_are=bool(self.peers))
            most = QueueShares(route).of(table.host) if table.peers else None
            model.apply(route, table.replicas_of(route.name), self.options, most)
        self.names = {}
        for model in self.models.values():
            self.names |= dict.fromkeys(model.route.aliases, model)
        self.names |= self.models  # a model's name comes before another model's alias
        self._removed = [gone for gone in self._removed if any(r.requests for r in gone.retired)]
        self.peers.start()

    def replicas(self) -> Iterator[LiveReplica]:
        """All replicas, including those that left the table but have requests in flight."""
        for model in (*self.models.values(), *self._removed):
            yield from model.everyone()

    def in_flight(self) -> dict[str, int]:
        """Requests in flight by replica id; replicas of the table are always included."""
        counts: dict[str, int] = {}
        for replica in self.replicas():
            name = replica.replica_id
            counts[name] = counts.get(name, 0) + len(replica.requests)
        return counts

    def describe(self) -> dict[str, Any]:
        """Return what runs in this process, for GET /state."""
        return {
            "version": self.table.version,
            "draining": self.draining,
            "in_flight": self.in_flight(),
            "queues": self.queues(),
            "idle_seconds": self.idle_seconds(),
            "keys": self.accounts.uses(),
        }

    def traffic(self) -> dict[str, Any]:
        """Return the counts of this process (see `core.demand.traffic`)."""
        now = time.monotonic()
        counts = process_traffic(self.models, self.replicas(), self.metrics.models, now)
        running = {live.share.key for replica in self.replicas() for live in replica.requests}
        keys = self.keys.owners.keys() | running
        for key_id in self._removed_keys.booked(counts["usage"], keys, now):
            for counted in self.metrics.models.values():
                counted.uses.pop(key_id, None)
        told: dict[str, Any] = {**counts, "peers": self.peers.reached()}
        if self.table.shares.number:
            told["keys"] = self.accounts.for_the_head()
            told["shares_number"] = self.table.shares.number
        return told

    def queues(self) -> dict[str, int]:
        """Requests waiting by model."""
        return {name: model.waiting for name, model in self.models.items()}

    def idle_seconds(self) -> dict[str, float]:
        """How long each model has had no request; 0 while it has one."""
        now = time.monotonic()
        return {name: round(model.idle_seconds(now), 3) for name, model in self.models.items()}

    def find_model(self, name: str) -> LiveModel | None:
        """Find a model by its name or an alias."""
        return self.names.get(name)

    def exchange_ended(self, exchange: TimeLimited) -> None:
        """Count a request as in flight no longer."""
        self.exchanges.discard(exchange)
        if self._all_ended is not None and not self.exchanges:
            self._all_ended.set()

    def connection_opened(self, connection: ClientConnection) -> bool:
        """Count a client's connection; False if there are too many.

        Beyond the limit the network with the most connections gives one up, so that none keeps the
        others out.
        """
        self.connections[connection] = None
        self.networks.add(connection.network, 1)
        if self.networks.held <= self.options.max_connections:
            return True
        most = self.networks.larger(connection.network)
        return any(one.network == most and one.give_way() for one in self.connections)

    def connection_closed(self, connection: ClientConnection) -> None:
        """Forget a client's connection; the parent of several workers is told."""
        if connection in self.connections:
            del self.connections[connection]
            self.networks.add(connection.network, -1)
        if self._siblings is not None:
            self._siblings.ledger.count_closed(self._siblings.row)
        if self._all_closed is not None and not self.connections:
            self._all_closed.set()

    def head_lines(self, *, last: bool) -> bytes:
        """Return the headers that every answer to a client has, each with its line end.

        Args:
            last: the connection ends after the answer.
        """
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode())
        line = self._date[1]
        return line + b"connection: close\r\n" if last or self.says_goodbye else line

    def start_sweeping(self) -> None:
        """Start checking time limits periodically; called with each connection of a client, and
        each request of a peer; harmless if they are checked already.
        """
        if self._sweep_timer is None:
            loop = asyncio.get_running_loop()
            self._sweep_timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check all time limits: one timer serves all requests and connections."""
        self._sweep_timer = None
        now = time.monotonic()
        watched: list[TimeLimited] = [*self.exchanges, *self.reading, *self.connections]
        for one in watched:
            try:
                one.sweep(now)
            except Exception:  # noqa: BLE001 -- logged there; check all others
                one.on_bug()
        if not (self.connections or self.exchanges):
            self.accounts.save()
        else:
            busy = len(self.exchanges) + len(self.connections)
            pause = max(SWEEP_SECONDS, busy * SWEEP_SECONDS_EACH)
            self._sweep_timer = loop.call_later(pause, self._sweep, loop)
            self.accounts.save_if_due(now)

    def stop_admitting(self) -> None:
        """Begin to drain, and refuse the requests whose body has not arrived."""
        self.draining = True
        for request in self.reading:
            request.shut_down()

    async def drain(self, grace_seconds: float) -> None:
        """Let requests in flight finish within the grace; then end them with an error.

        The connections of clients end as soon as they have no request.
        """
        self.stop_admitting()
        for connection in list(self.connections):
            connection.shut_down()
        if self.exchanges:
            self._all_ended = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._all_ended.wait()
        for exchange in list(self.exchanges):
            try:
                exchange.shut_down()
            except Exception:  # noqa: BLE001 -- logged there; end all others
                exchange.on_bug()

    async def closed(self, seconds: float) -> None:
        """Wait until all connections of clients are closed, at most for so long."""
        if self.connections:
            self._all_closed = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_closed.wait()

    def close(self) -> None:
        """Close idle connections to engines, and save the keys' budgets."""
        self.accounts.save()
        self.peers.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for replica in self.replicas():
            replica.pool.close()

    def _gauges(self) -> Gauges:
        models = self.models
        yield families.SEQUENCES, _samples(models, lambda r: float(r.own_sequences))
        yield families.LIMIT, _samples(models, lambda r: float(r.pace.limit))
        yield families.EJECTED, _samples(models, lambda r: float(r.doubt > 0))
        yield families.QUEUE, [((name,), float(n)) for name, n in self.queues().items()]
        reached = self.peers.reached().items()
        yield families.PEERS, [((host,), float(is_reached)) for host, is_reached in reached]
        yield families.VLLM_RUNNING, _samples(models, lambda r: float(r.own_sequences))
        yield families.VLLM_WAITING, [((name,), float(n)) for name, n in self.queues().items()]
        yield families.VLLM_KV, _samples(models, _kv_share)


def _kv_share(replica: LiveReplica) -> float:
    """Estimated share of the replica's KV cache in use; 0 if its size is not known."""
    size = replica.kv_cache_tokens
    return replica.own_kv_tokens / size if size > 0 else 0.0


def _samples(
    models: Mapping[str, LiveModel], value: Callable[[LiveReplica], float]
) -> list[tuple[tuple[str, ...], float]]:
    return [
        ((name, replica.replica_id), value(replica))
        for name, model in models.items()
        for replica in model.replicas.values()
    ]
