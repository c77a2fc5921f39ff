"""Runs a proxy process under test, and shows its state as seen from outside."""

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess

MIB = 1024 * 1024


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
    """One proxy process."""

    def __init__(self, process: ProxyProcess) -> None:
        self.process = process
        self._version = 0

    @property
    def port(self) -> int:
        assert self.process.identity is not None
        return self.process.identity.port

    def pids(self) -> list[int]:
        """The process and its workers."""
        assert self.process.identity is not None
        found = [self.process.identity.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    async def publish(self, replicas: Iterable[ReplicaRoute], **route: Any) -> None:
        self._version += 1
        await self.process.publish(table(replicas, self._version, **route))

    def is_up(self, workers: int) -> bool:
        """Whether all workers have opened what they need; one process has by itself."""
        children = self.pids()[1:]
        return workers == 1 or (len(children) >= workers and all(map(_has_the_ledger, children)))

    def descriptors(self) -> int:
        """Open files, sockets and all."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids())

    def rss_bytes(self) -> int:
        """Memory that is resident."""
        total = 0
        for pid in self.pids():
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            assert found is not None
            total += int(found[1]) * 1024
        return total

    def cpu_seconds(self) -> float:
        """Computed so far, in user and kernel mode."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    async def state(self) -> Mapping[str, Any]:
        state = await self.process.state()
        assert state is not None, "the control socket does not answer"
        return state

    async def stats(self) -> Mapping[str, float]:
        return await self.process.stats()

    async def stat(self, name: str) -> float:
        return (await self.stats()).get(name, 0.0)

    async def is_idle(self) -> bool:
        """Whether nothing is counted as in flight or waiting, in requests and in sequences."""
        state = await self.state()
        if any(state["in_flight"].values()) or any(state["queues"].values()):
            return False
        stats = await self.stats()
        gauges = ("in_flight", "in_flight_sequences", "in_flight_kv_tokens", "queue")
        return not any(stats.get(f"partitiond_proxy_{name}", 0.0) for name in gauges)

    async def settle(self, seconds: float = 120) -> None:
        """Wait until it is idle."""
        await until_async(self.is_idle, "in-flight counts are not back", seconds)

    def log(self) -> str:
        return self.process.log_path.read_text()

    def assert_no_bug(self) -> None:
        """Nothing in the log that a developer would have to look at."""
        log = self.log()
        found = re.search(r"Traceback.*|.*internal_error.*|.*never (awaited|retrieved).*", log)
        assert found is None, log[max(0, found.start() - 500) : found.start() + 3000]


@contextlib.asynccontextmanager
async def proxy_under_test(folder: Path, **options: Any) -> AsyncIterator[ProxyUnderTest]:
    """A proxy process with these options."""
    process = ProxyProcess(
        host="127.0.0.1",
        port=0,
        state_dir=folder,
        control_socket=folder / "c.sock",
        options=ProxyOptions(**options),
    )
    await process.ensure_running()
    proxy = ProxyUnderTest(process)
    try:
        yield proxy
    finally:
        await process.stop(0)
    proxy.assert_no_bug()


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


def _has_the_ledger(pid: int) -> bool:
    """Whether a worker has come so far; it takes its last files right after."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(link.readlink().name)
    return found.count("ledger") >= 2
