"""Starts the engines of an arm, and samples the memory that they hold."""

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from bench.daemons import first_token
from bench.fleet.cases import Model
from bench.processes import free_port
from partitiond import serde
from partitiond.core.profile.record import Profile

READY_SECONDS = 120.0
SAMPLE_SECONDS = 1.0


@dataclasses.dataclass(slots=True)
class Engine:
    """One running engine."""

    model: Model
    port: int
    process: "subprocess.Popen[bytes]"


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
    """Starts engines, and stops them.

    Attributes:
        start_seconds: time that vLLM takes to start.
    """

    folder: Path
    start_seconds: float
    running: list[Engine] = dataclasses.field(default_factory=list)
    starts: int = 0

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
        self.starts += 1
        engine = Engine(model, port, process)
        self.running.append(engine)
        return engine

    async def ready(self, engine: Engine) -> None:
        """Wait until the engine answers. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS):
            while not await asyncio.to_thread(  # noqa: ASYNC110 -- another process
                first_token, engine.port, engine.model.name
            ):
                await asyncio.sleep(0.05)

    async def stop(self, engine: Engine) -> None:
        """Stop the engine; its memory is free afterwards."""
        engine.process.terminate()
        await asyncio.to_thread(engine.process.wait)
        self.running.remove(engine)

    def look(self) -> tuple[int, int]:
        """The bytes that engines hold now, and the number of engines started so far."""
        return sum(held_bytes(engine.model) for engine in self.running), self.starts


@contextlib.contextmanager
def garage(start_seconds: float) -> Iterator[Garage]:
    """A garage whose engines are stopped at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="pd-fleet-") as folder:
        found = Garage(Path(folder), start_seconds)
        try:
            yield found
        finally:
            for engine in found.running:
                engine.process.kill()
                engine.process.wait()


class Account:
    """Memory held by an arm's engines, and their starts, sampled every second.

    Args:
        look: gives the bytes held now, and the engines started so far.
    """

    def __init__(self, look: Callable[[], tuple[int, int]]) -> None:
        self._look = look
        self._looks: list[tuple[int, int]] = []

    @contextlib.asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Sample while the block runs."""
        self._looks = [await asyncio.to_thread(self._look)]
        task = asyncio.create_task(self._run())
        try:
            yield
            self._looks.append(await asyncio.to_thread(self._look))
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._looks.append(await asyncio.to_thread(self._look))

    @property
    def held(self) -> list[int]:
        """Bytes held at each look."""
        return [held for held, _ in self._looks]

    @property
    def starts(self) -> int:
        """Engines started between the first look and the last."""
        return self._looks[-1][1] - self._looks[0][1]
