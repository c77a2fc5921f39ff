"""Puts load on one server from a process of its own: `python -m bench.gpu_check.load_worker`.

A single Python process would limit several fast engines. Lines of JSON go both ways, for one load
after the other. A first line describes a load. Of a closed loop the worker says "opened" when every
slot has finished a request. It is then told since when all workers are in that state
("measure_since"), and says "enough" once its own window is long and certain enough. It keeps its
load until it is told the borders of the window common to all ("window"), and answers with the
figures between them ("result"). An open loop ("open") is answered with its result alone.
"""

import asyncio
import json
import math
import os
import sys
from typing import Any

from bench.common_window import Together, throughput_between
from loadgen import (
    ClosedLoopResult,
    LoadgenError,
    Outcome,
    Samples,
    Slo,
    Workload,
    closed_loop,
    open_loop,
    poisson,
)
from loadgen.http.connection import now
from loadgen.results.statistics import summarise

WINDOW_E2EL = 2.0
"""Shortest window in mean end-to-end latencies, by the definitions."""
CERTAIN = 0.03
"""A window may close, and a rate is not measured again, once its 95 % half-width is at most this
share of it."""
REQUEST_SECONDS = 120.0
"""Until a request of an open loop is given up; it is then missed."""


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Gate:
    """The window common to all workers, as told by the controlling process.

    Args:
        seconds: shortest window, and the longest one that is open only for certainty.
    """

    def __init__(self, seconds: tuple[float, float]) -> None:
        self._seconds = seconds
        self._told_enough = False
        self._steady_since = math.inf
        self.measure_since: float | None = None
        self.window: tuple[float, float] | None = None

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Take lines until one tells the window.

        Raises:
            EOFError: the controlling process is gone; nothing waits for the result.
        """
        while self.window is None:
            line = await reader.readline()
            if not line.strip():
                raise EOFError
            told = json.loads(line)
            self.measure_since = told.get("measure_since", self.measure_since)
            if "window" in told:
                opened, closed = told["window"]
                self.window = (opened, closed)

    def steady(self) -> None:
        """Note that every slot has finished a request."""
        self._steady_since = now()
        say(opened=True)

    def covered(self, until: float) -> tuple[float, float]:
        """The window that was told.

        Raises:
            LoadgenError: the load, which ended at `until`, did not cover the whole window.
        """
        assert self.window is not None  # the load ends no other way
        opened, closed = self.window
        if not self._steady_since <= opened < closed <= until:
            raise LoadgenError("the load did not last through the window that was asked for")
        return opened, closed

    def is_over(self, mean_e2el: float | None, half_width_share: float) -> bool:
        """Whether the load may end; says "enough" once the window is enough for this loop."""
        if not self._told_enough and self._is_enough(mean_e2el, half_width_share):
            self._told_enough = True
            say(enough=True)
        return self.window is not None

    def _is_enough(self, mean_e2el: float | None, half_width_share: float) -> bool:
        if self.measure_since is None or mean_e2el is None:
            return False
        elapsed, (shortest, longest) = now() - self.measure_since, self._seconds
        if elapsed < max(shortest, WINDOW_E2EL * mean_e2el):
            return False
        return elapsed >= longest or half_width_share <= CERTAIN


def result_of(result: ClosedLoopResult, opened: float, closed: float) -> dict[str, Any]:
    """Figures between two times as plain numbers; None for a figure without values."""
    samples = Samples.of_window(result.records, opened, closed)
    tpot, ttft, e2el = (summarise(values) for values in (samples.tpot, samples.ttft, samples.e2el))
    rate = throughput_between(result, opened, closed)
    return {
        "output_tokens_per_s": rate.output_tokens_per_s,
        "half_width": rate.half_width if rate.half_width < float("inf") else None,
        "tpot_p95_seconds": tpot.p95 if tpot else None,
        "ttft_p95_seconds": ttft.p95 if ttft else None,
        "e2el_mean_seconds": e2el.mean if e2el else None,
        "cpu_share": result.cpu_share,
        "errors": sum(record.outcome in _FAILURES for record in result.records),
    }


_FAILURES = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.REFUSED})


async def serve() -> None:
    """Run loads until there is no further line. Raises LoadgenError, EOFError."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        wanted = json.loads(line)
        if wanted["cores"]:
            os.sched_setaffinity(0, wanted["cores"])
        run = _opened if wanted["open"] else _closed
        say(result=await run(wanted, reader))


async def _closed(wanted: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
    shortest, longest = wanted["seconds"]
    gate = Gate((shortest, longest))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.listen(reader))
            loop = group.create_task(
                closed_loop(
                    wanted["socket"],
                    Workload(**wanted["workload"]),
                    concurrency=wanted["concurrency"],
                    window=Together(min_seconds=shortest, max_seconds=longest, gate=gate),
                    on_opened=gate.steady,
                )
            )
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    result = loop.result()
    return result_of(result, *gate.covered(result.closed))


async def _opened(wanted: dict[str, Any], _reader: asyncio.StreamReader) -> dict[str, Any]:
    asked = wanted["open"]
    slo = Slo(**asked["slo"])
    result = await open_loop(
        wanted["socket"],
        Workload(**wanted["workload"]),
        arrivals=poisson(asked["req_per_s"], wanted["workload"]["seed"]),
        seconds=asked["seconds"],
        warmup_seconds=asked["warm_up_seconds"],
        timeout_seconds=REQUEST_SECONDS,
        max_in_flight=wanted["concurrency"],
        keep_sending=True,
    )
    ttft, tpot = (summarise(values) for values in (result.samples.ttft, result.samples.tpot))
    return {
        "arrivals": len(result.arrivals),
        "attainment": result.attainment(slo),
        "goodput_req_per_s": result.goodput_req_per_s(slo),
        "ttft_p95_seconds": ttft.p95 if ttft else None,
        "tpot_p95_seconds": tpot.p95 if tpot else None,
        "errors": sum(record.outcome in _FAILURES for record in result.arrivals),
        "cpu_share": result.cpu_share,
    }


def main() -> int:
    try:
        asyncio.run(serve())
    except EOFError:
        return 1
    except LoadgenError as error:
        say(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
