"""Runs a proxy, and engines that can be killed, as processes of their own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.routing import ReplicaRoute
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.replicas import listens
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import until, wait_for
from tests.proxy.conftest import table
from tests.proxy.scraped import stats_of

GAUGES = (
    "partitiond_proxy_in_flight_sequences", "partitiond_proxy_queue", "vllm:kv_cache_usage_perc",
)  # fmt: skip


class ProxyUnderTest(ProxyProcess):
    """A proxy process whose state can be looked at from outside."""

    version = 0
    """Of its routing table."""

    async def serve(self, replicas: Iterable[ReplicaRoute], **route: Any) -> None:
        """Publish a table of these replicas of the model `m`."""
        self.version += 1
        await self.publish(table(*replicas, version=self.version, **route))

    async def is_idle(self) -> bool:
        """Whether nothing is counted as in flight or waiting, in requests and in sequences."""
        state = await self.state()
        assert state is not None, "the control socket does not answer"
        if any(state["in_flight"].values()) or any(state["queues"].values()):
            return False
        stats = await stats_of(self)
        return not any(stats.get(name, 0.0) for name in GAUGES)

    async def settle(self) -> None:
        """Wait until it is idle."""
        await until(self.is_idle, "in-flight counts to be back")

    def assert_no_bug(self) -> None:
        """Nothing in the log that a developer would have to look at."""
        log = self.log_path.read_text()
        found = re.search(r"Traceback.*|.*internal_error.*|.*never (awaited|retrieved).*", log)
        assert found is None, log[max(0, found.start() - 500) : found.start() + 3000]


@contextlib.asynccontextmanager
async def proxy_under_test(folder: Path, **options: Any) -> AsyncIterator[ProxyUnderTest]:
    """A proxy process with these options, and its files in a folder that is there."""
    proxy = ProxyUnderTest(
        host="127.0.0.1",
        port=0,
        state_dir=folder,
        control_socket=folder / "c.sock",
        options=ProxyOptions(**options),
    )
    try:
        await proxy.ensure_running()
        yield proxy
    finally:
        await proxy.stop(0)
    proxy.assert_no_bug()


class EngineProcess:
    """One engine on one socket.

    Attributes:
        generation: how often it was started; a routing table's `generation`.
    """

    def __init__(self, path: Path, *command: str) -> None:
        self.path = path
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self.generation = 0

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.path.unlink(missing_ok=True)
        self.generation += 1
        self._process = subprocess.Popen(
            [sys.executable, *self._command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        wait_for("the engine to listen", self._listens, pause=0.01)

    def _listens(self) -> bool:
        assert self.is_alive, f"{self._command} ended"
        return listens(str(self.path))

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it, and wait until it has."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(120)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


@contextlib.contextmanager
def running(*engines: EngineProcess) -> Iterator[None]:
    """Engines that are started, and killed in the end."""
    try:
        for engine in engines:
            engine.start()
        yield
    finally:
        for engine in engines:
            engine.end()
