"""The proxy's whole state: the current table, its live side, and everyone in flight."""

import asyncio
import contextlib
import logging
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.routing import EMPTY_ROUTING_TABLE, RoutingTable
from partitiond.proxy.auth import KeyRing
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.live import Flight, LiveModel, LiveReplica
from partitiond.proxy.metrics import Gauges, ProxyMetrics
from partitiond.serde import from_json, to_json

TABLE_FILE: Final = "routing.json"

_logger = logging.getLogger("partitiond.proxy")


class ProxyState:
    """What the data and the control listener share.

    Attributes:
        table: the last routing table.
        models: live models by name.
        flights: every request between admission and its end.
        draining: the proxy is shutting down; set by `stop_admitting`.
    """

    def __init__(self, options: ProxyOptions, state_dir: Path) -> None:
        self.options = options
        self.table = EMPTY_ROUTING_TABLE
        self.models: dict[str, LiveModel] = {}
        self.keys = KeyRing((), required=True)
        self.flights: set[Flight] = set()
        self.draining = False
        self._landed: asyncio.Event | None = None
        self._reading: set[asyncio.Timeout] = set()
        self.metrics = ProxyMetrics(self._gauges)
        self._removed: list[LiveModel] = []
        self._table_file = state_dir / TABLE_FILE

    def load(self) -> None:
        """Take over the table on disk, if there is a readable one."""
        try:
            table = from_json(RoutingTable, self._table_file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, InputError):
            # Serving nothing is worse than waiting for the next table, which replaces the file.
            _logger.exception("the routing table on disk is not readable: %s", self._table_file)
            return
        self._take(table)

    def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table, keep it on disk; whether it was taken.

        Raises:
            OSError: it could not be written; the old one stays in force.
        """
        if table.version < self.table.version:
            return False
        write_atomically(self._table_file, to_json(table).encode())
        self._take(table)
        return True

    def _take(self, table: RoutingTable) -> None:
        self.table = table
        self.keys = KeyRing(table.keys, required=table.keys_required)
        wanted = {route.name for route in table.models}
        for name in [name for name in self.models if name not in wanted]:
            gone = self.models.pop(name)
            gone.remove()
            self._removed.append(gone)
        for route in table.models:
            model = self.models.get(route.name)
            if model is None:
                model = self.models[route.name] = LiveModel(route)
            model.apply(route, table.replicas_of(route.name), self.options)
        self._removed = [gone for gone in self._removed if any(r.flights for r in gone.retired)]

    def replicas(self) -> Iterator[LiveReplica]:
        """All replicas, with those that left the table but still have requests in flight."""
        for model in (*self.models.values(), *self._removed):
            yield from model.everyone()

    def in_flight(self) -> dict[str, int]:
        """Requests in flight by replica id; replicas of the table are always there."""
        counts: dict[str, int] = {}
        for replica in self.replicas():
            name = replica.replica_id
            counts[name] = counts.get(name, 0) + len(replica.flights)
        return counts

    def queues(self) -> dict[str, int]:
        """Requests waiting by model."""
        return {name: len(model.queue) for name, model in self.models.items()}

    def idle_seconds(self) -> dict[str, float]:
        """How long each model has had no request; 0 while it has one."""
        now = time.monotonic()
        return {name: round(model.idle_seconds(now), 3) for name, model in self.models.items()}

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """For reading a body: TimeoutError when the client is too slow or draining begins."""
        async with asyncio.timeout(self.options.client_timeout_seconds) as timeout:
            self._reading.add(timeout)
            try:
                yield
            finally:
                self._reading.discard(timeout)

    def stop_admitting(self) -> None:
        """Begin to drain: requests whose body has not arrived have not begun, and never will."""
        self.draining = True
        now = asyncio.get_running_loop().time()
        for timeout in self._reading:
            if not timeout.expired():
                timeout.reschedule(now)

    async def drain(self, grace_seconds: float) -> None:
        """Let what runs finish within the grace; then end it with an error."""
        self.stop_admitting()
        if self.flights:
            self._landed = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._landed.wait()
        for flight in list(self.flights):
            flight.abort("shutting_down")

    def land(self, flight: Flight) -> None:
        """A request ended."""
        self.flights.discard(flight)
        if self._landed is not None and not self.flights:
            self._landed.set()

    def close(self) -> None:
        """Close idle connections to engines."""
        for replica in self.replicas():
            replica.pool.close()

    def _gauges(self) -> Gauges:
        yield (
            "partitiond_proxy_in_flight",
            "Requests in flight.",
            ("replica",),
            (((name,), float(count)) for name, count in self.in_flight().items()),
        )
        yield (
            "partitiond_proxy_in_flight_sequences",
            "Sequences in flight.",
            ("model", "replica"),
            _samples(self.models.values(), "sequences"),
        )
        yield (
            "partitiond_proxy_in_flight_kv_tokens",
            "Estimated KV tokens of what is in flight.",
            ("model", "replica"),
            _samples(self.models.values(), "kv_tokens"),
        )
        yield (
            "partitiond_proxy_limit_sequences",
            "Sequences a replica may have in flight.",
            ("model", "replica"),
            _samples(self.models.values(), "max_sequences"),
        )
        yield (
            "partitiond_proxy_ejected",
            "1 while a replica is left out because it failed.",
            ("model", "replica"),
            _samples(self.models.values(), "ejected"),
        )
        yield (
            "partitiond_proxy_queue",
            "Requests waiting for a slot.",
            ("model",),
            (((name,), float(count)) for name, count in self.queues().items()),
        )
        version = float(self.table.version)
        yield ("partitiond_proxy_routing_version", "Table in force.", (), [((), version)])


def _samples(
    models: Iterable[LiveModel], attribute: str
) -> Iterator[tuple[tuple[str, ...], float]]:
    for model in models:
        for replica in model.replicas.values():
            yield (model.route.name, replica.replica_id), float(getattr(replica, attribute))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner only; a crash leaves old or new.

    Not forced to disk: that would stall every stream for the disk's sake, and after a crash of
    the machine there are no engines that the table could mean.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def new_request_id() -> str:
    """Unique and unguessable enough to correlate; not a secret."""
    return f"req-{random.getrandbits(96):024x}"
