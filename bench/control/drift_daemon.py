"""Compares predicted and measured figures through the real daemon and proxy, at several loads.

    python -m bench.control.drift_daemon                      simulated engine, two minutes
    python -m bench.control.drift_daemon --engine-kind vllm   real engine (CPU), some ten minutes

The model is profiled on one core as by `partitiond profile`, served, and sent Poisson arrivals at
shares of its planned capacity. The bench prints the entries of the drift ledger: measured over
predicted at the load that was seen, in the median over windows, and the verdict. On a quiet machine
nothing drifts; a load beside the engine (`--beside 2`, busy loops on two cores) must show as drift.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator, Sequence

import httpx

from bench.daemons import Daemon, running, wait_for
from partitiond.core.drift.detection import Figure, LedgerEntry
from partitiond.core.profile.jobs import JobState, ProfileOptions

MODEL = "opt-125m"
SETTINGS = {
    "gpu.enabled": False,
    "engine.cgroup": "none",
    "planner.time_limit_seconds": 2.0,
    "profiling.cpu_partition_cores": [1],
    "profiling.min_window_seconds": 2.0,
    "profiling.max_window_seconds": 6.0,
    "drift.window_requests": 20,
    "drift.window_seconds": 5.0,
    "drift.correct": False,
}
WORKLOAD = {"prompt_tokens": 64, "output_tokens": 32}
PROMPT = "word " * 60
OPTIONS = ProfileOptions(cores=1, time_limit_seconds=180.0, max_batch=16, confirm=False)


async def load(daemon: Daemon, rate: float, seconds: float) -> int:
    """Send Poisson arrivals for `seconds`; return the number of answers."""
    chance, tasks = random.Random(1), []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, timeout=120, limits=limits) as http:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(ask(http, daemon.settings.proxy_url)))
            await asyncio.sleep(chance.expovariate(rate))
        return sum(await asyncio.gather(*tasks))


async def ask(http: httpx.AsyncClient, url: str) -> bool:
    body = {
        "model": MODEL,
        "prompt": PROMPT,
        "max_tokens": WORKLOAD["output_tokens"],
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            pass
        return answer.is_success


def busy() -> None:
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Run busy loops in other processes."""
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def prepared(daemon: Daemon, kind: str) -> float:
    """Register, profile and serve the model; return the planned requests/s of its replica."""
    more = {"engine": {"extra_args": ["--token-seconds", "0.01"]}} if kind == "simulated" else {}
    body = {"model": MODEL, "weights": "dummy", "engine_kind": kind, "workload": WORKLOAD,
            "min_replicas": 1, "max_replicas": 1, "auto": False, **more}  # fmt: skip
    with daemon.client() as client:
        client.register(body)
        job = client.profile(MODEL, OPTIONS)
        wait_for("the profile", lambda: client.job(job.id).state is JobState.SUCCEEDED, 600, 1.0)
        client.apply()
        wait_for("the replica", lambda: [r for r in client.replicas() if r.state == "serving"], 300)
        plan = client.current_plan()
        assert plan is not None
        return plan.placements[0].candidate.capacity_req_per_s


def row(name: str, entries: Sequence[LedgerEntry]) -> str:
    if not entries:
        return f"{name:>16} no full window"
    cells = [f"{statistics.median(e.batch for e in entries):7.2f}"]
    for figure in Figure:
        found = [f.measured / f.predicted for e in entries if (f := e.finding(figure))]
        cells.append(f"{statistics.median(found):7.2f}" if found else f"{'-':>7}")
    tolerated = [f.tolerance for e in entries if (f := e.finding(Figure.PACE))]
    cells.append(f"{statistics.median(tolerated):9.1%}" if tolerated else f"{'-':>9}")
    return f"{name:>16} {len(entries):8} {' '.join(cells)}  {entries[0].verdict.value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-kind", choices=("simulated", "vllm"), default="simulated")
    parser.add_argument("--engine-python", help="of an environment with vLLM")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    parser.add_argument("--beside", type=int, default=0)
    given = parser.parse_args()
    settings = dict(SETTINGS)
    if given.engine_python:
        settings["engine.python"] = given.engine_python
    with running(settings) as daemon:
        capacity = prepared(daemon, given.engine_kind)
        print(f"{given.engine_kind}: planned {capacity:.2f} requests/s")
        print(f"{'load':>16} {'windows':>8} {'batch':>7}", end=" ")
        print(" ".join(f"{head:>7}" for head in ("pace", "TPOT", "TTFT")), "tolerated")
        for share in given.shares:
            with daemon.client() as client, beside(given.beside):
                known = len(client.ledger(limit=1000))
                answered = asyncio.run(load(daemon, share * capacity, given.seconds))
                entries = client.ledger(limit=1000)
                new = entries[: len(entries) - known]
            print(row(f"{share:.0%}, {answered} ok", new), flush=True)


if __name__ == "__main__":
    main()
