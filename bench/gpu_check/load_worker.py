"""One closed loop in a process of its own: `python -m bench.gpu_check.load_worker`, JSON on stdin.

A single Python process would limit several fast engines. It writes one JSON line when its window
opens and one with the result.
"""

import asyncio
import json
import os
import sys
from typing import Any

from loadgen import ClosedLoopResult, LoadgenError, Outcome, Workload, closed_loop, fixed
from loadgen.statistics import summarise


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def result_of(result: ClosedLoopResult) -> dict[str, Any]:
    """The figures that the report needs, as plain numbers; None where nothing was seen."""
    tpot, ttft, e2el = (
        summarise(values)
        for values in (result.samples.tpot, result.samples.ttft, result.samples.e2el)
    )
    half = result.throughput.half_width
    return {
        "opened": result.opened,
        "closed": result.closed,
        "output_tokens_per_s": result.throughput.output_tokens_per_s,
        "half_width": half if half < float("inf") else None,
        "tpot_p95_seconds": tpot.p95 if tpot else None,
        "ttft_p95_seconds": ttft.p95 if ttft else None,
        "e2el_mean_seconds": e2el.mean if e2el else None,
        "cpu_share": result.cpu_share,
        "errors": sum(
            record.outcome in {Outcome.ERROR, Outcome.TIMEOUT, Outcome.REFUSED}
            for record in result.records
        ),
    }


async def measure(wanted: dict[str, Any]) -> dict[str, Any]:
    result = await closed_loop(
        wanted["socket"],
        Workload(**wanted["workload"]),
        concurrency=wanted["concurrency"],
        window=fixed(wanted["seconds"]),
        on_opened=lambda: say(opened=True),
    )
    return result_of(result)


def main() -> int:
    wanted = json.load(sys.stdin)
    if wanted["cores"]:
        os.sched_setaffinity(0, wanted["cores"])
    try:
        say(result=asyncio.run(measure(wanted)))
    except LoadgenError as error:
        say(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
