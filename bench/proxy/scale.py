"""Measures thousands of streams: 10,000 idle and 2,000 active, and small requests beside them.

    python -m bench.proxy.scale [--proxy ours:2] [--idle 10000] [--active 2000]

All answers are checked byte for byte. The latency of a small request is measured alone, with the
idle streams open, and while the active streams run.
"""

import argparse
import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.command import options
from bench.processes import (
    KIB,
    REALTIME_HELP,
    cpu_time,
    memory_bytes,
    open_sockets,
    run_first,
    tree,
)
from bench.proxy import native, report, tools
from bench.proxy.native import Load, read_report, start_client
from bench.proxy.proxies import Proxy, Setting, StartError, starter

ADDRESSES: Final = 8
"""One source address has ports for some 28,000 connections."""
IDLE_CHUNKS: Final = 2
PROBE_SECONDS: Final = 4.0
SPARE_FILES: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of streams, and their lengths.

    Attributes:
        idle_seconds: time from an idle stream's first chunk to its last.
        rate: chunks per second of an active stream.
    """

    idle: int
    active: int
    idle_seconds: int = 40
    active_seconds: float = 10.0
    rate: int = 10

    @property
    def idle_load(self) -> Load:
        """Streams that send one chunk, and the last one much later."""
        return Load(
            "streams", self.idle, 2.0 * self.idle_seconds, IDLE_CHUNKS, -self.idle_seconds,
            once=True, addresses=ADDRESSES, announce=True, grace=30,
        )  # fmt: skip

    @property
    def active_load(self) -> Load:
        """Streams that send chunks all the time."""
        return Load(
            "streams", self.active, self.active_seconds, round(self.rate * self.active_seconds),
            self.rate, once=True, addresses=ADDRESSES, announce=True, warm=2, grace=30,
        )  # fmt: skip


def raise_file_limit(needed: int) -> None:
    """Raise the limit of open files to the maximum. Exits if that is too low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < needed:
        sys.exit(
            f"A process may open {hard} files here, and {needed} are needed: raise the limit "
            "(ulimit -Hn, LimitNOFILE=), take more workers, or fewer streams."
        )


def wait_until_open(client: "subprocess.Popen[str]") -> float:
    """Seconds until every stream of a client has begun. Exits if some do not begin."""
    started = time.monotonic()
    assert client.stdout is not None
    line = client.stdout.readline()
    if line != "open\n":
        seen = json.loads(line)
        sys.exit(
            f"FAILED {seen['errors']} streams did not begin or broke, the first: "
            f"{seen['first_error']}"
        )
    return time.monotonic() - started


@dataclasses.dataclass(slots=True)
class Scene:
    """The proxy and the failures so far."""

    proxy: Proxy
    failures: list[str] = dataclasses.field(default_factory=list)

    def start(self, load: Load) -> "subprocess.Popen[str]":
        """Start a client."""
        return start_client(load, self.proxy.port, key=self.proxy.key, core=None)

    def finish(self, name: str, client: "subprocess.Popen[str]") -> dict[str, Any]:
        """Wait for a client; note a failure unless all answers are right and complete."""
        seen = read_report(client)
        bad = {k: seen[k] for k in ("errors", "wrong", "lost", "unfinished") if seen[k]}
        if bad:
            self.failures.append(f"{name}: {bad}, the first: {seen['first_error']}")
        return seen

    def say(self, name: str, value: object) -> None:
        """Show a figure."""
        shown = report.number(value) if isinstance(value, float) else value
        print(f"{name:58} {shown}")

    def probe(self, when: str) -> None:
        """Measure small requests, one after the other."""
        client = self.start(Load("requests", 1, PROBE_SECONDS, warm=0.2, grace=20))
        latency = self.finish(f"small requests, {when}", client)["latency_us"]
        for quantile in ("p50", "p99"):
            self.say(f"small request {quantile}, {when}, us", latency[quantile])


def measure(scene: Scene, plan: Plan) -> None:
    """Run all measurements in order."""
    pid = scene.proxy.pid
    with_warm_up = scene.start(Load("requests", 64, 1.0))
    scene.finish("warm-up", with_warm_up)
    scene.probe("alone")
    empty = memory_bytes(pid)
    idle = scene.start(plan.idle_load)
    scene.say(f"{plan.idle} idle streams open after, s", wait_until_open(idle))
    time.sleep(1)
    scene.say("memory per idle stream, KiB", (memory_bytes(pid) - empty) / plan.idle / KIB)
    shares(scene, "sockets by process, idle streams", {p: open_sockets(p) for p in tree(pid)})
    before = cpu_time(pid)
    time.sleep(2)
    scene.say("CPU while all are idle, %", (cpu_time(pid) - before).total / 2 * 100)
    scene.probe("idle streams open")
    before_each = {p: cpu_time(p, children=False).total for p in tree(pid)}
    active = scene.start(plan.active_load)
    scene.say(f"{plan.active} active streams open after, s", wait_until_open(active))
    scene.probe("active streams run")
    seen = scene.finish("active streams", active)
    after_each = {p: cpu_time(p, children=False).total for p in before_each}
    shares(
        scene,
        "CPU by process, active streams",
        {p: after_each[p] - before_each[p] for p in before_each},
    )
    for quantile in ("p50", "p99"):
        scene.say(f"chunk delay {quantile}, active streams, us", seen["delay_us"][quantile])
    scene.say("chunks of active streams", seen["chunks"])
    scene.finish("idle streams", idle)
    scene.probe("after all")


def shares(scene: Scene, name: str, by_process: dict[int, float]) -> None:
    """Report each process's share of the work; the parent of workers has almost none."""
    total = sum(by_process.values()) or 1
    parts = sorted((value / total for value in by_process.values()), reverse=True)
    scene.say(name, ", ".join(f"{part:.1%}" for part in parts))


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments."""
    parser = options(__doc__, idle=10_000, active=2_000)
    parser.add_argument("--proxy", default="ours:2", help="as in `python -m bench.proxy`")
    parser.add_argument("--rate", type=int, default=10, help="chunks/s of each active stream")
    parser.add_argument("--realtime", action="store_true", help=REALTIME_HELP)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run and print; return 1 if anything was lost, wrong or refused."""
    given = read_arguments(words)
    raise_file_limit(given.idle + given.active + SPARE_FILES)
    if given.realtime:
        run_first()
    plan = Plan(given.idle, given.active, rate=given.rate)
    with tempfile.TemporaryDirectory(prefix="pd-bench-") as name, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(native.upstream(Path(name), None))
        try:
            proxy = stack.enter_context(starter(given.proxy)(Setting(Path(name), upstream, None)))
        except (tools.MissingError, StartError) as error:
            sys.exit(str(error))
        scene = Scene(proxy)
        measure(scene, plan)
    for failure in scene.failures:
        print(f"FAILED {failure}")
    print("every byte was right, nothing was lost" if not scene.failures else "")
    return 1 if scene.failures else 0


if __name__ == "__main__":
    sys.exit(main())
