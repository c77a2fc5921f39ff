"""Provides a fleet on real Ray: a head and two agents as processes on this machine, each with one
simulated GPU, one engine and a stream at its endpoint.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from partitiond.core.hardware.host_state import HostState
from partitiond.core.replica.convergence import PlanState
from partitiond.platform.clock import SystemClock
from tests.cluster.network import HostNetwork
from tests.e2e.harness import toml_value, wait_for
from tests.e2e.test_several_hosts import Joined, ManyHosts, all_fine

NAMES = ("head", "gpu-1", "gpu-2")
MODEL = "a"
SECONDS = 150.0
"""A limit against hangs: Ray joins in some 10 s."""
SILENT_SECONDS = 4.0
TOKENS_PER_SECOND = 20
TOKENS_MOST = 1200
"""Of a stream."""
LIMIT_SECONDS = 600.0
"""A limit against hangs of a stream's end."""
ENGINE = (b"-m", b"partitiond.simulated.engine")

STREAMS = """
import json, sys, threading, time, urllib.request

url, model, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
enough = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), enough.set()), daemon=True).start()
number = 0
while not enough.is_set():
    number += 1
    body = {"model": model, "prompt": f"Once upon a time, in year {number}", "max_tokens": tokens,
            "ignore_eos": True, "stream": True}
    said = {"begun": time.monotonic(), "chunks": 0, "finish": None, "done": False, "error": ""}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as reply:
            for line in reply:
                word = line.decode().strip().removeprefix("data: ")
                if word == "[DONE]":
                    said["done"] = True
                elif word:
                    choice = json.loads(word)["choices"][0]
                    said["finish"] = choice["finish_reason"]
                    said["chunks"] += bool(choice["text"])
                    if said["chunks"] == 1 and number == 1:
                        print("flows", flush=True)
    except Exception as error:
        said["error"] = repr(error)
        enough.set()
    said["ended"] = time.monotonic()
    print(json.dumps(said), flush=True)
"""
"""Has one stream open at a time, until its standard input ends; says how each ended."""


class HeldStream:
    """A stream at a host's endpoint, and another one each time that one has ended."""

    def __init__(self, host: ManyHosts, tokens: int) -> None:
        self._name = host.name
        self._tokens = tokens
        self._process = subprocess.Popen(
            [*host.prefix, sys.executable, "-c", STREAMS, f"{host.base_url}/completions",
             MODEL, str(tokens)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def flows(self) -> None:
        """Wait until the first of its tokens has come."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "flows\n", said

    def enough(self) -> None:
        """Have the stream that is open now be the last one."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def was_open(self, since: float, until: float) -> None:
        """One was open at each moment between the two, and each has ended whole."""
        out, _ = self._process.communicate(timeout=LIMIT_SECONDS)
        found = [json.loads(line) for line in out.splitlines()]
        whole = {"chunks": self._tokens, "finish": "length", "done": True, "error": ""}
        for one in found:
            assert whole.items() <= one.items(), f"at the endpoint of {self._name}: {found}"
        assert found[0]["begun"] < since
        assert found[0]["ended"] > since, f"the fault came too late for {self._name}"
        assert found[-1]["ended"] > until

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclasses.dataclass
class RayFleet:
    """A head, and two hosts that joined it over Ray; the plan has one replica on each."""

    head: ManyHosts
    one: Joined
    two: Joined

    @property
    def hosts(self) -> tuple[ManyHosts, ...]:
        return (self.head, self.one, self.two)

    def named(self, name: str) -> ManyHosts:
        return next(host for host in self.hosts if host.name == name)

    def has_replicas(self, count: int) -> None:
        """Have so many hosts have an engine, and wait until they serve."""
        with self.head.client() as client:
            client.update(MODEL, {"min_replicas": count, "max_replicas": count})
        self.head.apply()
        self.head.serving(count, seconds=SECONDS)

    def becomes(self, name: str, *states: HostState) -> None:
        """Wait until a host is in one of the states."""

        def state() -> HostState:
            with self.head.client() as client:
                return next(host.state for host in client.hosts() if host.name == name)

        wait_for(f"{name} to be {states[0]}", lambda: state() in states, seconds=SECONDS)

    def engines(self) -> Mapping[str, list[int]]:
        """Processes of engines on this machine, by host."""
        return {host.name: sorted(filter(_is_engine, host.processes())) for host in self.hosts}

    def starts(self) -> int:
        """Number of starts of engines so far."""
        with self.head.client() as client:
            return sum(event.kind == "engine-starting" for event in client.events(limit=1000))

    def all_answer(self) -> None:
        """Wait until each host has answered once more and is fine."""
        since = SystemClock().utc_iso()

        def fine() -> bool:
            with self.head.client() as client:
                hosts = client.hosts()
            return [host.name for host in hosts] == list(NAMES) and all(
                host.state is HostState.FINE and host.last_word > since for host in hosts
            )

        wait_for("all hosts to answer", fine, seconds=SECONDS)
        all_fine(self.head)

    def converges(self) -> dict[str, tuple[int | None, ...]]:
        """Wait until the plan has converged on all hosts, and nothing runs that is not of it;
        return the processes of each replica: its shim, which leads the group, and its engine.
        """
        self.all_answer()

        def converged() -> bool:
            with self.head.client() as client:
                return client.convergence().state is PlanState.CONVERGED

        wait_for("the plan to converge", converged, seconds=SECONDS)
        views = self.head.serving(len(NAMES), seconds=SECONDS)
        engines = self.engines()
        told = {view.host: [view.pid] for view in views}
        found = {host: [os.getpgid(engine) for engine in there] for host, there in engines.items()}
        assert told == found, f"the head knows {told}, and there run {found}"
        return {view.replica_id: (view.pid, *engines[view.host]) for view in views}

    @contextlib.contextmanager
    def endures(self, tokens: int) -> Iterator[None]:
        """Around a fault and its end: streams at all endpoints go on, and afterwards the plan has
        converged with the engines that ran before; none was started.

        Args:
            tokens: of a stream.
        """
        before, starts = self.converges(), self.starts()
        with held_streams(self.hosts, tokens) as streams:
            since = time.monotonic()
            yield
            assert self.converges() == before
            until = time.monotonic()
            for stream in streams:
                stream.enough()
            for stream in streams:
                stream.was_open(since, until)
        assert self.starts() == starts


@contextlib.contextmanager
def held_streams(hosts: Sequence[ManyHosts], tokens: int) -> Iterator[Sequence[HeldStream]]:
    """A stream at the endpoint of each host, of which some tokens have come."""
    with contextlib.ExitStack() as stack:
        streams = [HeldStream(host, tokens) for host in hosts]
        for stream in streams:
            stack.callback(stream.close)
        for stream in streams:
            stream.flows()
        yield streams


@contextlib.contextmanager
def ray_fleet(python: Path, net: HostNetwork) -> Iterator[RayFleet]:
    """Start the fleet, with an engine that serves on each host."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    made: list[ManyHosts] = []
    try:
        for name in NAMES:
            values: dict[str, Any] = {
                "cluster.python": str(python),
                "cluster.trust_engines": True,
                "cluster.address": net.add(name),
                "host.silent_seconds": SILENT_SECONDS,
                "host.lost_seconds": LIMIT_SECONDS,
                **net.ports(name),
            }
            if made:
                made.append(Joined(folder / name, name, **values))
            else:
                made.append(ManyHosts(folder / name, name, **values, **{"cluster.enabled": True}))
            made[-1].prefix = net.inside(name)
        head, one, two = made
        assert isinstance(one, Joined)
        assert isinstance(two, Joined)
        head.start(seconds=SECONDS)
        place = f"{head.settings.cluster.address}:{head.settings.cluster.port}"
        for host in (one, two):
            address = host.settings.cluster.address
            words = ("--for", host.name, "--address", address, "--out", str(folder))
            assert head.cli("host", "certificate", *words).returncode == 0
            host.join = ("--from", str(folder / f"{host.name}.bundle"), place)
            host.start(seconds=SECONDS)
        all_fine(head)
        head.register(
            MODEL,
            len(NAMES),
            isolation="device",
            workload={"prompt_tokens": 16, "output_tokens": TOKENS_MOST},
            engine={"extra_args": ["--token-seconds", str(1 / TOKENS_PER_SECOND)]},
        )
        assert len({placement.device_id for placement in head.apply()}) == len(NAMES)
        head.serving(len(NAMES), seconds=SECONDS)
        yield RayFleet(head, one, two)
    finally:
        for begun in made:
            begun.host.heal()
            begun.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def restart(host: ManyHosts, **changes: object) -> None:
    """Kill a daemon and start it again, with other settings."""
    host.kill_daemon()
    lines = host.config.read_text().splitlines()
    kept = [line for line in lines if line.split(" = ")[0] not in changes]
    lines = [*kept, *(f"{key} = {toml_value(value)}" for key, value in changes.items())]
    host.config.write_text("\n".join(lines))
    host.start(seconds=SECONDS)


def _is_engine(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
        return ENGINE in itertools.pairwise(words)
    return False
