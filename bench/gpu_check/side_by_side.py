"""Puts load on several engines at once, each from a process of its own, in one common window.

Every engine is under load before the window opens and until after it has closed, so that the added
rates are of the same seconds. The window lasts as long as was asked for and at least twice the mean
end-to-end latency of the slowest engine.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from loadgen.http.connection import now
from partitiond.core.errors import EngineError
from partitiond.core.profile.points import Telemetry
from partitiond.ports.telemetry import TelemetryWindow

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """Load on one engine: `workload` holds the fields of `loadgen.Workload`."""

    socket: str
    workload: dict[str, Any]
    concurrency: int
    cores: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Arrivals:
    """Arrivals of an open loop, as a Poisson process.

    Attributes:
        slo: `ttft_seconds` and `tpot_seconds`, the bounds of a good request.
    """

    req_per_s: float
    seconds: float
    warm_up_seconds: float
    slo: dict[str, float]


class Loaders:
    """Processes that put load on engines; they stay, warm, for the next window."""

    def __init__(self) -> None:
        self._idle: list[asyncio.subprocess.Process] = []

    @contextlib.asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        """Give this many of them; after an error they are killed, because their load goes on."""
        taken: list[asyncio.subprocess.Process] = []
        try:
            while len(taken) < count:
                taken.append(self._idle.pop() if self._idle else await _worker())
            yield taken
        except BaseException:
            await _ended(taken)
            raise
        self._idle += taken

    async def close(self) -> None:
        """End them all."""
        idle, self._idle = self._idle, []
        await _ended(idle)


@dataclasses.dataclass(frozen=True, slots=True)
class Watched:
    """Queries of the engines and the device, beside the load.

    Attributes:
        telemetry: opens a window on the device and all of the engines' processes.
        preempted: requests that each engine has preempted so far; None without an answer.
    """

    telemetry: Callable[[], Awaitable[TelemetryWindow]]
    preempted: Callable[[], Awaitable[Sequence[int | None]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Together:
    """Results of engines measured side by side.

    Attributes:
        each: results of the streams, as `load_worker.result_of` gives them.
        telemetry: the device's telemetry in the window.
        seconds: length of the common window.
        preemptions: preemptions of each engine under load; None without an answer.
    """

    each: tuple[dict[str, Any], ...]
    telemetry: Telemetry | None
    seconds: float = 0.0
    preemptions: tuple[int | None, ...] = ()

    @property
    def output_tokens_per_s(self) -> float:
        """Sum over the engines."""
        return math.fsum(result["output_tokens_per_s"] for result in self.each)

    @property
    def half_width(self) -> float:
        """95 % half-width of the sum; infinite if one engine's is unknown."""
        known = [result["half_width"] for result in self.each]
        return math.inf if None in known else math.hypot(*known)

    @property
    def preempted(self) -> int | None:
        """Sum over the engines; None if one of them gave no count."""
        known = [count for count in self.preemptions if count is not None]
        return sum(known) if len(known) == len(self.each) else None

    @property
    def joules_per_token(self) -> float | None:
        """Energy of the whole GPU over output tokens; None if the GPU reports no energy."""
        energy = None if self.telemetry is None else self.telemetry.energy_joules
        tokens = self.output_tokens_per_s * self.seconds
        return energy / tokens if energy is not None and tokens > 0 else None

    def worst(self, name: str) -> float | None:
        """The largest of the engines' values."""
        return max((r[name] for r in self.each if r[name] is not None), default=None)

    def row(self) -> dict[str, Any]:
        """A row of the report's tables."""
        return {
            "output tokens/s": round(self.output_tokens_per_s, 1),
            "half width": round(self.half_width, 1) if math.isfinite(self.half_width) else None,
            "TPOT p95 ms": _ms(self.worst("tpot_p95_seconds")),
            "TTFT p95 ms": _ms(self.worst("ttft_p95_seconds")),
            "E2EL mean s": _rounded(self.worst("e2el_mean_seconds"), 3),
            "window s": _rounded(self.seconds, 1),
            "preempted": self.preempted,
            "J/token": _rounded(self.joules_per_token, 5),
            **device_columns(self.telemetry),
            "client core": _rounded(self.worst("cpu_share"), 2),
        }


async def load_together(
    loaders: Loaders, streams: Sequence[Stream], seconds: tuple[float, float], watched: Watched
) -> Together:
    """Hold every stream's requests in flight and measure one common window.

    Cancelling ends the load.

    Args:
        loaders: where the processes come from.
        streams: the load of each engine.
        seconds: shortest window, longer if twice the mean latency is; and the longest one that is
            kept open because an engine's rate is not certain yet.
        watched: telemetry and preemptions.

    Raises:
        EngineError: requests failed; such a window gives no figure.
    """
    before = await watched.preempted()
    async with loaders.taken(len(streams)) as workers:
        for worker, stream in zip(workers, streams, strict=True):
            await _to_all([worker], seconds=seconds, open=None, **dataclasses.asdict(stream))
        await _from_all(workers, "opened")
        window = await watched.telemetry()
        telemetry: Telemetry | None = None
        try:
            opened = now()
            await _to_all(workers, measure_since=opened)
            await _from_all(workers, "enough")
            closed = now()
        finally:
            telemetry = await window.close()
        after = await watched.preempted()
        await _to_all(workers, window=(opened, closed))
        each = await _from_all(workers, "result")
    preemptions = tuple(
        None if old is None or new is None else new - old
        for old, new in zip(before, after, strict=True)
    )
    return _sound(Together(tuple(each), telemetry, closed - opened, preemptions))


async def load_open(loaders: Loaders, stream: Stream, arrivals: Arrivals) -> dict[str, Any]:
    """Send one stream's requests as they arrive; at most its concurrency is in the server.

    Returns:
        `load_worker`'s figures of an open loop.

    Raises:
        EngineError: the load broke.
    """
    async with loaders.taken(1) as workers:
        asked = dataclasses.asdict(arrivals)
        await _to_all(workers, seconds=None, open=asked, **dataclasses.asdict(stream))
        found: dict[str, Any] = (await _from_all(workers, "result"))[0]
    return found


def _sound(together: Together) -> Together:
    """Return the results. Raises EngineError if requests failed: the window measures nothing."""
    failed = sum(result["errors"] for result in together.each)
    if failed:
        raise EngineError(
            f"{failed} requests failed under load.",
            hint="The engine may have ended: see its log.",
            facts={"failed": failed},
        )
    return together


async def _ended(workers: Sequence[asyncio.subprocess.Process]) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
    for worker in workers:
        await worker.wait()


def environment() -> dict[str, str]:
    """The environment of a process that runs modules of this checkout."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path}


async def _worker() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.gpu_check.load_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )


async def _to_all(workers: Sequence[asyncio.subprocess.Process], **values: Any) -> None:
    line = json.dumps(values).encode() + b"\n"
    for worker in workers:
        assert worker.stdin is not None
        # A worker that is gone has told the reason, or is noticed when its next line is read.
        with contextlib.suppress(ConnectionError):
            worker.stdin.write(line)
            await worker.stdin.drain()


async def _from_all(workers: Sequence[asyncio.subprocess.Process], name: str) -> list[Any]:
    """Each worker's next line. Raises the first worker's error as soon as one has failed."""
    return list(await asyncio.gather(*(_line(worker, name) for worker in workers)))


async def _line(worker: asyncio.subprocess.Process, name: str) -> Any:
    """The worker's next line, which must carry `name`."""
    assert worker.stdout is not None
    text = await worker.stdout.readline()
    values = json.loads(text) if text.strip() else {}
    if name not in values:
        raise EngineError(
            f"the load ended early: {values.get('error', 'its process is gone')}",
            hint="See the engine's log.",
        )
    return values[name]


def device_columns(told: Telemetry | None) -> dict[str, float | None]:
    """A device's telemetry as columns of a table; without telemetry there are none."""
    if told is None:
        return {}
    return {
        "SM activity": _rounded(told.sm_activity, 3),
        "SM occupancy": _rounded(told.sm_occupancy, 3),
        "DRAM activity": _rounded(told.dram_activity, 3),
        "GPU_UTIL": _rounded(told.gpu_util, 3),
        "power W": _rounded(told.power_watts, 1),
        "cores used": _rounded(told.cores_used, 2),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
