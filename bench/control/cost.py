"""Measures the control plane's cost: idle CPU and memory, an engine's death, a first token.

Each of the three measurements runs on a daemon of its own with simulated GPUs and engines:

- `idle`: registered models and simulated GPUs, without any requests. CPU of the daemon and of its
  proxy in percent of one core, their memory (PSS, the memory that would be free if they ended), and
  the time of one registration and of one pass of the loop.
- `death`: one of several engines is killed (SIGKILL). Seconds until all serve again, beside the
  time that the same engine takes to start and answer without partitiond.
- `first-token`: seconds from `POST /models`, then `POST /plan/apply` at once (the plan rests on
  the estimate; a profile would come first otherwise), to the first token of a streamed request that
  is sent again and again from then on, beside the same engine started by hand.
- `planning` (only if named): the slowest call of each kind to the API, each sent again and again,
  while a plan of all models is made and applied, beside the slowest at rest. The host has cores
  for `--replicas`; models beyond them have no place.

The idle measurement counts CPU time, not wall time, so other work on the machine matters little.
The other two are shown beside a bare engine's start in the same minute.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from bench.command import chosen, options
from bench.daemons import Daemon, end_in_order, first_token, running, serving, wait_for
from bench.processes import command_of, cpu_time, memory_bytes
from partitiond.client.client import ControlClient

START_SECONDS: Final = 60.0


def main(words: Sequence[str] | None = None) -> int:
    """Run the named measurements and print their results."""
    end_in_order()
    parser = options(__doc__, models=100, gpus=64)
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(MEASUREMENTS)} [first three]")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the idle measurement")
    parser.add_argument("--rounds", type=int, default=5, help="deaths, and first tokens")
    parser.add_argument("--replicas", type=int, default=60, help="of the planning measurement")
    parser.add_argument("--limit", type=float, default=20.0, help="planner.time_limit_seconds")
    parser.add_argument("--tree", type=Path, help="run the daemon of another checkout")
    given = parser.parse_args(words)
    for name in chosen(parser, "what", ",".join(given.what or USUAL), MEASUREMENTS):
        for line in MEASUREMENTS[name](given):
            print(line, flush=True)
    return 0


# --- what is measured ---------------------------------------------------------------------------


def idle(given: argparse.Namespace) -> Iterator[str]:
    """Measure CPU and memory of an idle control plane."""
    with daemon(given, given.gpus) as running_one, running_one.client() as client:
        took = []
        for number in range(given.models):
            began = time.monotonic()
            client.register(model_body(f"m-{number:03d}", auto=False))
            took.append(time.monotonic() - began)
        time.sleep(5.0)  # the work that registrations started is over by then
        before, passes = use(running_one), loop_passes(client)
        began = time.monotonic()
        time.sleep(given.seconds)
        seconds = time.monotonic() - began
        after, passed = use(running_one), loop_passes(client)
    yield f"idle: {given.models} models, {given.gpus} simulated GPUs, {seconds:.0f} s"
    for name, (cpu, mib) in after.items():
        yield f"  {name:8} {(cpu - before[name][0]) / seconds:7.2%} of a core, {mib:6.1f} MiB"
    count = passed[0] - passes[0]
    spent = (passed[1] - passes[1]) / max(1, count)
    yield f"  pass of the loop {spent * 1000:.2f} ms, {count / seconds:.2f} passes/s"
    yield f"  registration {1000 * statistics.median(took):.0f} ms (median of {len(took)})"


def death(given: argparse.Namespace) -> Iterator[str]:
    """Measure the time from an engine's death to full capacity."""
    bare = [bare_start() for _ in range(given.rounds)]
    took, lost, count = [], 0, max(4, given.rounds)
    with daemon(given, 1) as one, one.client() as client:
        client.register(model_body("m", auto=False, min_replicas=count, max_replicas=count))
        client.apply()
        wait_for("all replicas", lambda: serving(client) == count, 120)
        for _ in range(given.rounds):
            # Each engine dies only once: after a second death the back-off is longer by design.
            victim = next(r for r in client.replicas() if r.starts == 1 and r.pid)
            assert victim.pid is not None
            began = time.monotonic()
            os.kill(victim.pid, 9)
            wait_for("its death to be seen", lambda: serving(client) < count, 30, 0.005)
            while serving(client) < count:
                lost += first_token(one.settings.proxy.port, "m") is None
                if time.monotonic() - began > START_SECONDS:
                    raise TimeoutError("the engine does not come back")
            took.append(time.monotonic() - began)
            time.sleep(2.0)
    yield f"death: SIGKILL of 1 engine of {count}, {given.rounds} times"
    yield from beside(took, bare, "full capacity again")
    yield f"  requests that failed meanwhile: {lost}"


def to_first_token(given: argparse.Namespace) -> Iterator[str]:
    """Measure the time from POST /models to the first token."""
    bare = [bare_start() for _ in range(given.rounds)]
    took = []
    with daemon(given, 1) as one, one.client() as client:
        for number in range(given.rounds):
            name = f"new-{number}"
            began = time.monotonic()
            client.register(model_body(name, auto=False, max_replicas=1))
            client.apply()
            answered = functools.partial(first_token, one.settings.proxy.port, name)
            wait_for("a token", answered, 120)
            took.append(time.monotonic() - began)
            client.remove(name)
            wait_for("its end", lambda: not client.replicas(), 60)
    yield f"first token: POST /models and POST /plan/apply, {given.rounds} times"
    yield from beside(took, bare, "first token")


def planning(given: argparse.Namespace) -> Iterator[str]:
    """Measure the slowest calls of the API while a plan is made and applied."""
    settings = {"planner.time_limit_seconds": given.limit, "planner.objective": "max-min"}
    with daemon(given, given.gpus, settings, given.replicas) as one, one.client() as client:
        for number in range(given.models):
            # Loads and an objective for which no plan is soon proven to be the best.
            wanted = {
                "demand": {"req_per_s": 0.5 + number * 37 % 100 / 5},
                "workload": {"prompt_tokens": 64 + number * 91 % 700, "output_tokens": 48},
            }
            client.register({**model_body(f"m-{number:04d}", auto=False), **wanted})
        with Asking(one, CALLS) as rest:
            time.sleep(given.seconds)
        with Asking(one, CALLS) as solved:
            began = time.monotonic()
            preview = client.plan()
            took = time.monotonic() - began
        with Asking(one, CALLS) as applied:
            began = time.monotonic()
            client.apply(preview.plan.id, allow_outage=True)
            replicas = len(preview.plan.wanted)
            with contextlib.suppress(TimeoutError):
                wait_for("all replicas", lambda: serving(client) >= replicas, 300, 0.5)
            ready = time.monotonic() - began
            served = serving(client)
    yield f"planning: {given.models} models, {given.gpus} simulated GPUs, {replicas} placed"
    yield f"  POST /plan {took:.1f} s; after the apply {served} replicas serve in {ready:.1f} s"
    yield "  slowest answer, at rest, while it is made, while it is applied:"
    for call in CALLS:
        slow = (f"{asked.slowest[call]:8.2f} s" for asked in (rest, solved, applied))
        yield f"  {call:16}{''.join(slow)}"


MEASUREMENTS: Final = {
    "idle": idle,
    "death": death,
    "first-token": to_first_token,
    "planning": planning,
}
USUAL: Final = ("idle", "death", "first-token")
CALLS: Final = ("/healthz", "/readyz", "/models", "/plan", "/replicas", "/overview")


class Asking:
    """Sends calls to the control API in a thread each, again and again, while the block runs.

    Attributes:
        slowest: seconds of the slowest answer of each call.
    """

    def __init__(self, one: Daemon, calls: Sequence[str]) -> None:
        self.slowest = dict.fromkeys(calls, 0.0)
        self._one, self._done = one, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[call]) for call in calls]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, call: str) -> None:
        token = self._one.settings.token_path.read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=self._one.settings.control_url, timeout=600.0) as client:
            while not self._done.wait(0.1 if call == "/healthz" else 1.0):
                began = time.monotonic()
                assert client.get(call, headers=headers).status_code < 500
                self.slowest[call] = max(self.slowest[call], time.monotonic() - began)


def beside(took: Sequence[float], bare: Sequence[float], what: str) -> Iterator[str]:
    """Our time beside a bare engine's start."""
    ours, base = statistics.median(took), statistics.median(bare)
    yield f"  {what} after {ours:.2f} s (median; {min(took):.2f} to {max(took):.2f})"
    yield f"  the same engine by hand, start to first token: {base:.2f} s"
    yield f"  of partitiond: {ours - base:+.2f} s, {ours / base:.2f} times"


# --- tools --------------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon(
    given: argparse.Namespace, gpus: int, more: Mapping[str, object] = {}, cores: int = 0
) -> Iterator[Daemon]:
    """A daemon on a simulated host."""
    with tempfile.TemporaryDirectory(prefix="pd-host-") as name:
        folder = Path(name)
        described = {"name": "bench", "numa_nodes": min(8, gpus), "cores": cores or 8 * gpus}
        described["gpus"] = [{"model": "a100-80gb", "count": gpus}]
        (folder / "host.json").write_text(json.dumps(described))
        host = folder / "host"
        words = ["tools", "simulate", "create", str(folder / "host.json"), "--out", str(host)]
        subprocess.run(
            [sys.executable, "-m", "partitiond", *words], check=True, stdout=subprocess.DEVNULL
        )
        settings = {"gpu.simulated_host": host, "cpu.enabled": False, **more}
        tree = None if given.tree is None else given.tree.absolute()
        with running(settings, tree=tree) as one:
            yield one


def model_body(name: str, *, auto: bool, **more: object) -> dict[str, object]:
    """A registration of OPT-125M with made-up weights and the simulated engine."""
    return {
        "model": "opt-125m",
        "name": name,
        "weights": "dummy",
        "engine_kind": "simulated",
        "auto": auto,
        "workload": {"prompt_tokens": 128, "output_tokens": 32},
        "demand": {"req_per_s": 1.0},
        **more,
    }


def use(one: Daemon) -> dict[str, tuple[float, float]]:
    """The CPU seconds that the daemon and its proxy have used, and the MiB that they hold."""
    proxy = next(pid for pid in one.pids() if "partitiond.proxy" in command_of(pid))
    pids = {"daemon": one.process.pid, "proxy": proxy}
    return {
        name: (cpu_time(pid, children=False).total, memory_bytes(pid, children=False) / 2**20)
        for name, pid in pids.items()
    }


def loop_passes(client: ControlClient) -> tuple[int, float]:
    """Number of the loop's passes so far, and their total seconds."""
    text = client.metrics()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = "partitiond_reconcile_seconds"
    return int(float(found[f"{name}_count"])), float(found[f"{name}_sum"])


def bare_start() -> float:
    """Seconds from the start of a simulated engine to its first token, without partitiond."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        path = f"{name}/s"
        words = ["--uds", path, "--model", "m", "--max-num-seqs", "64"]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "partitiond.simulated.engine", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for("the engine", lambda: first_token(0, "m", path), START_SECONDS, 0.02)
            return time.monotonic() - began
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
