"""Starts the engines of an arm, and accounts for the memory that they hold."""

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.fleet.cases import Model
from bench.processes import free_port
from partitiond import serde
from partitiond.core.profile.record import Profile

READY_SECONDS = 120.0


@dataclasses.dataclass(slots=True)
class Engine:
    """One running engine."""

    model: Model
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def memory_bytes(self) -> int:
        """Memory that an engine of the model holds, by measurement."""
        return held_bytes(self.model)


def held_bytes(model: Model) -> int:
    """The most memory that one engine of the model holds, by measurement."""
    return int(model.profile.footprint.peak_bytes)


def on_cores(profile: Profile, cores: int) -> Profile:
    """The profile on `cores` cores, if speed grew in proportion to the number of cores."""
    points = tuple(
        dataclasses.replace(
            point,
            output_tokens_per_s=point.output_tokens_per_s * cores,
            ttft=dataclasses.replace(point.ttft, mean=point.ttft.mean / cores),
        )
        for point in profile.points
    )
    return dataclasses.replace(profile, points=points)


@dataclasses.dataclass(slots=True)
class Garage:
    """Starts engines, and keeps account of their memory.

    Attributes:
        start_seconds: time that vLLM takes to start.
    """

    folder: Path
    start_seconds: float
    running: list[Engine] = dataclasses.field(default_factory=list)
    starts: int = 0
    _byte_seconds: float = 0.0
    _peak: int = 0
    _since: float = dataclasses.field(default_factory=time.monotonic)
    _began: float = dataclasses.field(default_factory=time.monotonic)

    def launch(self, model: Model, cores: int) -> Engine:
        """Start an engine; it listens once it is up."""
        file = self.folder / f"{model.base}-{cores}.json"
        if not file.exists():
            file.write_text(serde.to_json(on_cores(model.profile, cores)))
        port = free_port()
        words = ["--uds", str(port), "--model", model.name, "--profile", str(file)]
        words += ["--max-num-seqs", "256", "--kv-cache-tokens", "262144"]
        words += ["--load-seconds", str(self.start_seconds)]
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet.tcp_engine", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._settle()
        self.starts += 1
        engine = Engine(model, port, process)
        self.running.append(engine)
        self._peak = max(self._peak, self._held())
        return engine

    async def ready(self, engine: Engine) -> None:
        """Wait until the engine answers. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS):
            while not await _answers(engine.port):  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)

    async def stop(self, engine: Engine) -> None:
        """Stop the engine; its memory is free afterwards."""
        engine.process.terminate()
        await asyncio.to_thread(engine.process.wait)
        self._settle()
        self.running.remove(engine)

    def close(self) -> None:
        """Stop all engines."""
        for engine in self.running:
            engine.process.kill()
        for engine in self.running:
            engine.process.wait()

    def count_from_now(self) -> None:
        """Forget the memory and the starts counted so far."""
        self._byte_seconds, self._peak, self.starts = 0.0, self._held(), 0
        self._began = self._since = time.monotonic()

    def mean_bytes(self) -> float:
        """Mean memory held since counting began."""
        self._settle()
        return self._byte_seconds / max(1e-9, self._since - self._began)

    def peak_bytes(self) -> int:
        """The most memory held since counting began."""
        return self._peak

    def _held(self) -> int:
        return sum(engine.memory_bytes for engine in self.running)

    def _settle(self) -> None:
        now = time.monotonic()
        self._byte_seconds += self._held() * (now - self._since)
        self._since = now


@contextlib.contextmanager
def garage(folder: Path, start_seconds: float) -> Iterator[Garage]:
    """A garage whose engines are stopped at the end of the block."""
    found = Garage(folder, start_seconds)
    try:
        yield found
    finally:
        found.close()


async def _answers(port: int) -> bool:
    """Whether the engine's health check succeeds."""
    body = json.dumps({"model": "", "prompt": "a", "max_tokens": 1}).encode()
    head = (
        f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(head.encode() + b"\r\n" + body)
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
