"""Load on several engines at once, each from a process of its own, in one common window."""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import EngineError
from partitiond.core.profile import Telemetry
from partitiond.ports.telemetry import TelemetryWindow

ROOT: Final = Path(__file__).resolve().parents[2]
MIN_OVERLAP: Final = 0.8
"""Windows that share less than this of their length were not under simultaneous load."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """Load on one engine: `workload` holds the fields of `loadgen.Workload`."""

    socket: str
    workload: dict[str, Any]
    concurrency: int
    cores: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Together:
    """What the engines did side by side.

    Attributes:
        each: results of the streams, as `load_worker.result_of` gives them.
        telemetry: of the device while all windows were open.
    """

    each: tuple[dict[str, Any], ...]
    telemetry: Telemetry | None

    @property
    def output_tokens_per_s(self) -> float:
        """Sum over the engines."""
        return math.fsum(result["output_tokens_per_s"] for result in self.each)

    @property
    def overlap(self) -> float:
        """Share of the longest window in which all were open."""
        shared: float = min(r["closed"] for r in self.each) - max(r["opened"] for r in self.each)
        longest: float = max(r["closed"] - r["opened"] for r in self.each)
        return max(0.0, shared / longest)

    def worst(self, name: str) -> float | None:
        """The largest of the engines' values."""
        return max((r[name] for r in self.each if r[name] is not None), default=None)

    def row(self) -> dict[str, Any]:
        """A row of the report's tables."""
        half = [result["half_width"] for result in self.each]
        row: dict[str, Any] = {
            "output tokens/s": round(self.output_tokens_per_s, 1),
            "half width": None if None in half else round(math.hypot(*half), 1),
            "TPOT p95 ms": _ms(self.worst("tpot_p95_seconds")),
            "TTFT p95 ms": _ms(self.worst("ttft_p95_seconds")),
            "E2EL mean s": _rounded(self.worst("e2el_mean_seconds"), 3),
            **device_columns(self.telemetry),
            "client core": _rounded(self.worst("cpu_share"), 2),
        }
        if self.overlap < MIN_OVERLAP:
            row["note"] = f"windows overlap by {self.overlap:.0%} only"
        return row


async def load_together(
    streams: Sequence[Stream],
    seconds: float,
    open_telemetry: Callable[[], Awaitable[TelemetryWindow]],
) -> Together:
    """Hold every stream's requests in flight and measure a window of `seconds` on each.

    Cancelling ends the load.

    Raises:
        EngineError: requests failed.
    """
    workers = [await _worker(stream, seconds) for stream in streams]
    try:
        for worker in workers:
            await _line(worker, "opened")
        window = await open_telemetry()
        telemetry: Telemetry | None = None
        try:
            first = await _line(workers[0], "result")
        finally:
            telemetry = await window.close()
        rest = [await _line(worker, "result") for worker in workers[1:]]
        return _sound(Together((first, *rest), telemetry))
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


def _sound(together: Together) -> Together:
    """Raises EngineError where requests failed: such a window measures nothing."""
    failed = sum(result["errors"] for result in together.each)
    if failed:
        raise EngineError(
            f"{failed} requests failed under load.",
            hint="The engine may have ended: see its log.",
            facts={"failed": failed},
        )
    return together


async def _worker(stream: Stream, seconds: float) -> asyncio.subprocess.Process:
    wanted = dataclasses.asdict(stream) | {"seconds": seconds}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.gpu_check.load_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(wanted).encode())
    process.stdin.close()
    return process


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
    """What a device told, as columns of a table; without it they stay empty."""
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
