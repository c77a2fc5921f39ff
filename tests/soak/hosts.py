"""Runs the three hosts that a soak harms: a head and two agents, each with two simulated GPUs.

They find each other in a folder, in place of Ray (`tests.cluster.test_faults` has Ray).
"""

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from partitiond.client.client import ControlClient
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.chaos.killed_fleet import engines_in, kill
from tests.e2e.harness import Fleet, JoinedHost, Load
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import wait_for
from tests.soak.harmed import COMMON_HARM, Harmed

MODELS = {"busy": 3, "calm": 1}
"""Replicas, each on a GPU of its own: there is room for all while one host is lost."""
SILENT_SECONDS, LOST_SECONDS = 6.0, 15.0
OUTAGES = 1.0, 25.0
"""Some are no silence, some make a host silent, and some make it lost."""
BOOKED_SECONDS = 15.0
"""Within which the last counts of all endpoints are booked."""


class SoakHost(GpuFleet):
    """One of the three: its daemon or agent, its endpoint and engines."""

    def __init__(self, folder: Path, name: str, **overrides: object) -> None:
        gpus = HostDescription(name, (GpuDescription("a100-80gb", 2),), cores=8)
        host = SimulatedHost.create(gpus, folder / "gpus")
        host.mps_control.unlink()  # no shares of a GPU: fewer processes
        values: dict[str, object] = {
            "host.name": name,
            "cluster.folder": str(folder.parent / "hosts"),
            "host.silent_seconds": SILENT_SECONDS,
            "host.lost_seconds": LOST_SECONDS,
            "engine.probe_interval_seconds": 0.5,
            "engine.probe_timeout_seconds": 2.0,
            "engine.stop_grace_seconds": 2.0,
            "engine.drain_deadline_seconds": 20.0,
        }
        super().__init__(folder, host, **values | overrides)
        self.name = name
        self.asked = 0

    def engines(self) -> dict[str, list[int]]:
        return engines_in(self.run_dir)

    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def answers(self, model: str) -> str:
        """Why its endpoint does not serve a model; empty if it does, or is full of others."""
        body = {"model": model, "prompt": "Once", "max_tokens": 2}
        self.asked += 1
        try:
            answer = httpx.post(f"{self.base_url}/completions", json=body, timeout=60)
        except httpx.HTTPError as error:
            return f"{model} at {self.name}: {error!r}"
        fine = answer.is_success or answer.status_code == 429
        return "" if fine else f"{model} at {self.name}: {answer.status_code} {answer.text[:200]}"


class SoakAgent(JoinedHost, SoakHost):
    """One that joined."""


class SoakHosts(Harmed):
    """What random harm can be done to three hosts, and whether they are well again."""

    fewest, most = 2, 3
    patience_seconds = 240.0

    def __init__(self, folder: Path) -> None:
        self.head = SoakHost(folder / "head", "head", **{"cluster.enabled": True})
        self.agents = [SoakAgent(folder / name, name) for name in ("gpu-1", "gpu-2")]
        self.all = [self.head, *self.agents]
        self.replicas_of = dict(MODELS)
        self.loads = [Load(host.base_url, dict.fromkeys(MODELS, 1), tokens=16) for host in self.all]

    def begin_to_serve(self) -> None:
        for host in self.all:
            host.start()
        for name, count in self.replicas_of.items():
            self.head.register(
                name,
                count,
                isolation="device",
                engine={"sleep_mode": True, "extra_args": ["--token-seconds", "0.02"]},
            )
        wait_for("all devices", lambda: len(self.head.client().devices()) == 2 * len(self.all))
        self.plan()
        self.require_well()

    def client(self) -> ControlClient:
        return self.head.client()

    @contextlib.contextmanager
    def load(self) -> Iterator[list[Load]]:
        """Streams at the endpoint of each host."""
        with contextlib.ExitStack() as running:
            for load in self.loads:
                running.enter_context(load.running())
            yield self.loads

    def cleanup(self) -> None:
        for host in self.all:
            host.cleanup()

    # --- whether they are well --------------------------------------------------------------------

    def fleets(self) -> Mapping[Fleet, SimulatedHost]:
        return {host: host.host for host in self.all}

    def all_engines(self) -> list[int]:
        return sorted(p for host in self.all for pids in host.engines().values() for p in pids)

    def look(self) -> None:
        """Raises AssertionError if a host has an engine twice."""
        for host in self.all:
            found = host.engines()
            assert all(len(pids) == 1 for pids in found.values()), f"{host.name}, twice: {found}"

    def trouble(self) -> str:
        """What is not as the store says; empty once everything is."""
        with self.client() as client:
            problems = client.readiness()
            silent = [h.name for h in client.hosts() if h.state.value != "fine"]
            plan = client.current_plan()
            views = client.replicas()
        if problems or silent:
            return f"not ready: {problems} {silent}"
        wanted = {p.replica_id: p.model for p in (plan.wanted if plan is not None else ())}
        counts = {name: list(wanted.values()).count(name) for name in self.replicas_of}
        if counts != self.replicas_of:
            return f"the plan has {counts}, not {self.replicas_of}"
        if {v.replica_id: v.state for v in views} != dict.fromkeys(wanted, "serving"):
            return f"{[(v.engine, v.host, v.state) for v in views]}, not {sorted(wanted)}"
        shown = sorted((v.host, v.engine) for v in views)
        running = sorted((host.name, name) for host in self.all for name in host.engines())
        if running != shown or len(running) != len(wanted):
            return f"runs {running}, shown are {shown}"
        devices = [view.device_id for view in views]
        if len(set(devices)) != len(devices):
            return f"a device is given twice: {devices}"
        for host, name in itertools.product(self.all, MODELS):
            if why := host.answers(name):
                return why
        return ""

    def require_clean(self) -> None:
        """Everything of the head is ended, and no request is booked twice."""
        outcomes = [outcome for load in self.loads for outcome in load.outcomes]
        done = sum(outcome.ended == "done" for outcome in outcomes)
        time.sleep(BOOKED_SECONDS)
        with self.client() as client:
            booked = sum(line.requests for line in client.usage(by=("model",)).lines)
        asked = sum(host.asked for host in self.all)
        print(f"{done} of {len(outcomes)} streams and {asked} questions; {booked} are booked")
        assert booked <= len(outcomes) + asked, "requests are booked twice"
        self.head.terminate()
        wait_for("the memory to be free", lambda: not self.head.held_bytes(), seconds=30)
        assert self.head.engines() == {}
        with sqlite3.connect(self.head.settings.store_path) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    # --- harm -------------------------------------------------------------------------------------

    def an_endpoint_is_killed(self, rng: random.Random) -> None:
        kill(self._endpoint(rng.choice(self.all)))

    def an_endpoint_freezes(self, rng: random.Random) -> None:
        self._freezes(self._endpoint(rng.choice(self.all)))

    def _endpoint(self, host: SoakHost) -> int:
        return wait_for("an endpoint", lambda: _found(host, "partitiond.proxy"),
                        seconds=self.patience_seconds)  # fmt: skip

    def an_agent_is_killed(self, rng: random.Random) -> None:
        agent = rng.choice(self.agents)
        agent.kill_daemon()
        time.sleep(_outage(rng))
        if rng.random() < 0.3:
            self.an_engine_is_killed(rng)
        agent.start()

    def an_agent_stops_and_goes_on(self, rng: random.Random) -> None:
        self._paused(rng.choice(self.agents), rng)

    def the_head_is_killed(self, rng: random.Random) -> None:
        self.head.kill_daemon()
        time.sleep(_outage(rng))
        if rng.random() < 0.5:
            self.an_engine_is_killed(rng)
        self.head.launch()

    def the_head_stops_and_goes_on(self, rng: random.Random) -> None:
        self._paused(self.head, rng)

    def _paused(self, host: SoakHost, rng: random.Random) -> None:
        os.kill(host.pid(), signal.SIGSTOP)
        time.sleep(_outage(rng))
        os.kill(host.pid(), signal.SIGCONT)

    def an_agent_cannot_be_reached(self, rng: random.Random) -> None:
        name = rng.choice(self.agents).name
        line = Path(str(self.head.settings.cluster.folder)) / f"{name}.sock"
        line.rename(line.with_suffix(".cut"))
        time.sleep(_outage(rng))
        if rng.random() < 0.3:
            self.an_engine_is_killed(rng)
        line.with_suffix(".cut").rename(line)

    def a_host_loses_its_power(self, rng: random.Random) -> None:
        """All of its processes end at once, and it is started again after a while."""
        agent = rng.choice(self.agents)
        for pid in agent.processes():
            kill(pid)
        time.sleep(_outage(rng))
        agent.start()

    def head_and_agent_are_killed(self, rng: random.Random) -> None:
        """What the head knows of a lost host only in memory is gone when the host returns."""
        agent = rng.choice(self.agents)
        agent.kill_daemon()
        time.sleep(_outage(rng))
        self.head.kill_daemon()
        self.head.launch()
        time.sleep(_outage(rng))
        agent.start()


def _outage(rng: random.Random) -> float:
    return rng.uniform(*OUTAGES)


def _found(host: SoakHost, word: str) -> int:
    with contextlib.suppress(AssertionError):
        return host.process_with(word)
    return 0


HARM = (
    *COMMON_HARM,
    SoakHosts.an_endpoint_is_killed,
    SoakHosts.an_endpoint_freezes,
    SoakHosts.an_agent_is_killed,
    SoakHosts.an_agent_stops_and_goes_on,
    SoakHosts.the_head_is_killed,
    SoakHosts.the_head_stops_and_goes_on,
    SoakHosts.an_agent_cannot_be_reached,
    SoakHosts.a_host_loses_its_power,
    SoakHosts.head_and_agent_are_killed,
)
