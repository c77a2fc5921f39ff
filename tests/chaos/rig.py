"""Runs a proxy process under test, and shows its state as seen from outside.

It may be two processes, of two hosts: clients then ask the *entry*, and the replicas are the other
one's, the *owner*'s.
"""

import asyncio
import contextlib
import dataclasses
import functools
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
    TablesOfHosts,
)
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import free_port
from tests.proxy.certificates import issue_host
from tests.proxy.scraped import stats_of

MIB = 1024 * 1024
ENTRY, OWNER = "entry", "owner"


def replica(path: Path, name: str, **changes: Any) -> ReplicaRoute:
    """A replica of the model that its name begins with (`m-1` is of `m`)."""
    values: dict[str, Any] = {
        "replica_id": name,
        "model": name.partition("-")[0],
        "socket_path": str(path),
        "generation": "1",
        "max_sequences": 64,
        "kv_cache_tokens": 0,
        "max_model_len": 100_000,
        "service_seconds": 0.1,
    }
    return ReplicaRoute(**{**values, **changes})


def table(replicas: Iterable[ReplicaRoute], version: int = 1, **route: Any) -> RoutingTable:
    """A table of these replicas and their models."""
    replicas = tuple(replicas)
    values: dict[str, Any] = {"availability": ModelAvailability.SERVING, "max_queue": 4096, **route}
    models = sorted({r.model for r in replicas})
    routes = tuple(ModelRoute(name=name, **{"served_name": name, **values}) for name in models)
    return RoutingTable(version, routes, replicas)


class ProxyUnderTest:
    """One proxy process, or an entry and an owner: what is counted is counted of both.

    Args:
        process: that clients ask.
        peers: where each host's proxy serves the others; none if there is one host.
        owner: has the replicas that name no host; None if `process` has them.
    """

    def __init__(
        self,
        process: ProxyProcess,
        peers: tuple[PeerRoute, ...] = (),
        owner: ProxyProcess | None = None,
    ) -> None:
        self.process = process
        self.owner = process if owner is None else owner
        self.processes = (process,) if owner is None else (owner, process)
        self._peers = peers
        self._version = 0

    @property
    def port(self) -> int:
        assert self.process.identity is not None
        return self.process.identity.port

    def pids(self) -> list[int]:
        """The processes and their workers."""
        return [pid for process in self.processes for pid in _pids(process)]

    async def publish(self, replicas: Iterable[ReplicaRoute], **route: Any) -> None:
        self._version += 1
        owner = OWNER if self._peers else ""
        here = [dataclasses.replace(one, host=one.host or owner) for one in replicas]
        tables = TablesOfHosts(table(here, self._version, **route), peers=self._peers)
        await self.owner.publish(tables.of(owner))
        if self.owner is not self.process:
            await self.process.publish(tables.of(ENTRY))
            await until_async(self._is_joined, "the hosts do not reach each other")

    async def _is_joined(self) -> bool:
        return await self.stat("partitiond_proxy_peer_reached") == len(self.processes)

    def descriptors(self) -> int:
        """Open files, sockets and all."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids())

    async def state(self) -> Mapping[str, Any]:
        """Of all processes; what has a number in several of them has the sum."""
        merged: dict[str, Any] = {}
        for process in self.processes:
            state = await process.state()
            assert state is not None, "the control socket does not answer"
            for name, value in state.items():
                both = isinstance(value, dict) and isinstance(merged.get(name), dict)
                merged[name] = _sums(merged[name], value) if both else value
        return merged

    async def stats(self) -> Mapping[str, float]:
        stats: dict[str, float] = {}
        for process in self.processes:
            stats = _sums(stats, await stats_of(process))
        return stats

    async def stat(self, name: str) -> float:
        return (await self.stats()).get(name, 0.0)

    async def is_idle(self) -> bool:
        """Whether nothing is counted as in flight or waiting, in requests and in sequences."""
        state = await self.state()
        if any(state["in_flight"].values()) or any(state["queues"].values()):
            return False
        stats = await self.stats()
        gauges = (
            "in_flight", "in_flight_sequences", "in_flight_kv_tokens", "queue", "hops_in_flight"
        )  # fmt: skip
        return not any(stats.get(f"partitiond_proxy_{name}", 0.0) for name in gauges)

    async def settle(self, seconds: float = 120) -> None:
        """Wait until it is idle."""
        await until_async(self.is_idle, "in-flight counts are not back", seconds)

    def log(self) -> str:
        return "".join(process.log_path.read_text() for process in self.processes)

    def assert_no_bug(self) -> None:
        """Nothing in the log that a developer would have to look at."""
        log = self.log()
        found = re.search(r"Traceback.*|.*internal_error.*|.*never (awaited|retrieved).*", log)
        assert found is None, log[max(0, found.start() - 500) : found.start() + 3000]


def _pids(process: ProxyProcess) -> list[int]:
    assert process.identity is not None
    found = [process.identity.pid]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _sums(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    numbers = [counts for counts in (one, other) if all(map(_is_number, counts.values()))]
    if len(numbers) < 2:
        return {**one, **other}
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def process_of(folder: Path, **options: Any) -> ProxyProcess:
    """A proxy process with its files in this folder; not started."""
    folder.mkdir(exist_ok=True)
    return ProxyProcess(
        host="127.0.0.1",
        port=0,
        state_dir=folder,
        control_socket=folder / "c.sock",
        options=ProxyOptions(**options),
    )


def peer_of(folder: Path, host: str) -> tuple[PeerRoute, dict[str, str]]:
    """A host's address for the others, and the options of its proxy for that."""
    address = f"127.0.0.1:{free_port()}"
    files = str(issue_host(folder, host))
    return PeerRoute(host, address), {"peers_address": address, "peers_tls": files}


@contextlib.asynccontextmanager
async def proxy_under_test(folder: Path, **options: Any) -> AsyncIterator[ProxyUnderTest]:
    """A proxy process with these options."""
    async with _running(ProxyUnderTest(process_of(folder, **options)), **options) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def hop_under_test(folder: Path, **options: Any) -> AsyncIterator[ProxyUnderTest]:
    """An entry and an owner with these options."""
    (entry, at_entry), (owner, at_owner) = (peer_of(folder, host) for host in (ENTRY, OWNER))
    asked = process_of(folder / ENTRY, **options, **at_entry)
    serving = process_of(folder / OWNER, **options, **at_owner)
    async with _running(ProxyUnderTest(asked, (entry, owner), serving), **options) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def _running(
    proxy: ProxyUnderTest, workers: int = 1, **_: Any
) -> AsyncIterator[ProxyUnderTest]:
    async with contextlib.AsyncExitStack() as stack:
        for process in proxy.processes:
            stack.push_async_callback(process.stop, 0)
            await process.ensure_running()
            # A worker that comes later would learn the table, and reach other hosts, unnoticed.
            await until(functools.partial(_is_complete, process, workers), "not all workers are up")
        yield proxy
    proxy.assert_no_bug()


Proxies = Callable[..., contextlib.AbstractAsyncContextManager[ProxyUnderTest]]
"""`proxy_under_test` or `hop_under_test`."""


@contextlib.contextmanager
def short_folder() -> Any:
    """A folder with a short path: Unix socket paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as name:
        yield Path(name)


async def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait for something that has no event."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert condition(), what


async def until_async(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Wait for something that has to be asked for."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


def _is_complete(process: ProxyProcess, workers: int) -> bool:
    """Whether all workers serve; a single process does when it is ready."""
    return workers == 1 or process.log_path.read_text().count("worker_started") >= workers
