"""Runs the three hosts that a soak harms: a head and two agents, each with two simulated GPUs.

They find each other in a folder, in place of Ray; those of `SoakRayHosts` by real Ray.
"""

import contextlib
import itertools
import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from partitiond.client.client import ControlClient
from partitiond.proxy.server import LAST_SECONDS
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.chaos.killed_fleet import engines_in, kill
from tests.cluster.ray_fixtures import free_ports
from tests.cluster.test_faults import GCS, RAYLET, UNUSED_PORTS, kill_ray
from tests.e2e.harness import Fleet, JoinedHost, Load
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import wait_for
from tests.soak.harmed import COMMON_HARM, Harmed

NAMES = "head", "gpu-1", "gpu-2"
MODELS = {"busy": 3, "calm": 1}
"""Replicas, each on a GPU of its own: there is room for all while one host is lost."""
SILENT_SECONDS, LOST_SECONDS = 6.0, 15.0
OUTAGES = 1.0, 25.0
"""Some are no silence, some make a host silent, and some make it lost."""
BOOKED_SECONDS = 15.0
"""Within which the last counts of all endpoints are booked."""
UNKEPT_SECONDS = 2 * LAST_SECONDS
"""What an endpoint counted in its last `LAST_SECONDS` is lost if it is killed; twice as long on a
busy machine."""


class SoakHost(GpuFleet):
    """One of the three: its daemon or agent, its endpoint and engines.

    Attributes:
        answered: when its endpoint has answered one of `answers`, in monotonic seconds.
        killed: from when to when its endpoint was harmed, until it was gone.
    """

    def __init__(self, folder: Path, name: str, **overrides: object) -> None:
        gpus = HostDescription(name, (GpuDescription("a100-80gb", 2),), cores=8)
        host = SimulatedHost.create(gpus, folder / "gpus")
        host.mps_control.unlink()  # no shares of a GPU: fewer processes
        values: dict[str, object] = {
            "host.name": name,
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
        self.answered: list[float] = []
        self.killed: list[tuple[float, float]] = []

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
        if answer.is_success:
            self.answered.append(time.monotonic())
        fine = answer.is_success or answer.status_code == 429
        return "" if fine else f"{model} at {self.name}: {answer.status_code} {answer.text[:200]}"

    @contextlib.contextmanager
    def loses_its_endpoint(self) -> Iterator[None]:
        """Around what kills the endpoint, until it is gone."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.killed.append((began, time.monotonic()))

    def booked_at_least(self, load: Load) -> int:
        """Of the requests that its endpoint has answered whole, those whose count was kept."""
        times = [outcome.finished for outcome in load.outcomes if outcome.ended == "done"]

        def is_kept(at: float) -> bool:
            # A client has read the end of an answer some time after the endpoint has counted it.
            return not any(a - UNKEPT_SECONDS <= at <= b + UNKEPT_SECONDS for a, b in self.killed)

        return sum(map(is_kept, [*times, *self.answered]))


class SoakAgent(JoinedHost, SoakHost):
    """One that joined."""


class SoakHosts(Harmed):
    """What random harm can be done to three hosts, and whether they are well again."""

    fewest, most = 2, 3
    patience_seconds = 240.0

    def __init__(self, folder: Path) -> None:
        head, *others = self.settings_of_hosts(folder)
        self.head = SoakHost(folder / NAMES[0], NAMES[0], **head | {"cluster.enabled": True})
        self.agents = [
            SoakAgent(folder / name, name, **values)
            for name, values in zip(NAMES[1:], others, strict=True)
        ]
        self.all = [self.head, *self.agents]
        self.replicas_of = dict(MODELS)
        self.loads = [Load(host.base_url, dict.fromkeys(MODELS, 1), tokens=16) for host in self.all]

    def settings_of_hosts(self, folder: Path) -> list[dict[str, Any]]:
        """How they find each other."""
        return [{"cluster.folder": str(folder / "hosts")} for _ in NAMES]

    def let_join(self, agent: SoakAgent) -> None:
        """Give a host what it joins with; in a folder nothing is needed."""

    def begin_to_serve(self) -> None:
        self.head.start()
        for agent in self.agents:
            self.let_join(agent)
            agent.start(seconds=self.patience_seconds)
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
        """Everything of the head is ended, and each request is booked once."""
        outcomes = [outcome for load in self.loads for outcome in load.outcomes]
        done = sum(outcome.ended == "done" for outcome in outcomes)
        time.sleep(BOOKED_SECONDS)
        with self.client() as client:
            booked = sum(line.requests for line in client.usage(by=("model",)).lines)
        asked = sum(host.asked for host in self.all)
        least = sum(map(SoakHost.booked_at_least, self.all, self.loads))
        most = sum(outcome.ended != "refused" for outcome in outcomes) + asked
        print(
            f"{done} of {len(outcomes)} streams and {asked} questions; {booked} are booked, of "
            f"{least} to {most} that may be: {sum(len(host.killed) for host in self.all)} killed "
            "endpoints may have lost what they had counted last"
        )
        assert least <= booked, "requests that were answered are not booked"
        assert booked <= most, "requests are booked twice"
        self.head.terminate()
        wait_for("the memory to be free", lambda: not self.head.held_bytes(), seconds=30)
        assert self.head.engines() == {}
        with sqlite3.connect(self.head.settings.store_path) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def acts(self) -> Sequence[Callable[..., None]]:
        """What harm is done to them."""
        return HARM

    # --- harm -------------------------------------------------------------------------------------

    def an_endpoint_is_killed(self, rng: random.Random) -> None:
        host = rng.choice(self.all)
        endpoint = self._endpoint(host)
        with host.loses_its_endpoint():
            kill(endpoint)

    def an_endpoint_freezes(self, rng: random.Random) -> None:
        host = rng.choice(self.all)
        endpoint = self._endpoint(host)
        with host.loses_its_endpoint():
            self._freezes(endpoint)

    def _endpoint(self, host: SoakHost) -> int:
        return wait_for("an endpoint", lambda: _found(host, "partitiond.proxy"),
                        seconds=self.patience_seconds)  # fmt: skip

    def an_agent_is_killed(self, rng: random.Random) -> None:
        agent = rng.choice(self.agents)
        agent.kill_daemon()
        time.sleep(_outage(rng))
        if rng.random() < 0.3:
            self.an_engine_is_killed(rng)
        self._starts(agent)

    def an_agent_stops_and_goes_on(self, rng: random.Random) -> None:
        self._paused(rng.choice(self.agents), rng)

    def _starts(self, agent: SoakAgent) -> None:
        agent.start(seconds=self.patience_seconds)

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
        line = rng.choice(self.agents).settings.agent_socket
        line.rename(line.with_suffix(".cut"))
        time.sleep(_outage(rng))
        if rng.random() < 0.3:
            self.an_engine_is_killed(rng)
        line.with_suffix(".cut").rename(line)

    def files_run_out(self, rng: random.Random) -> None:
        """A daemon or an agent can open nothing for a while, and ends nothing for that."""
        pid, engines = rng.choice(self.all).pid(), set(self.all_engines())
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files, before[1]))
        time.sleep(_outage(rng))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        ended = engines - set(self.all_engines())
        assert not ended, f"engines were ended because files ran out: {ended}"

    def a_host_loses_its_power(self, rng: random.Random) -> None:
        """All of its processes end at once, and it is started again after a while."""
        agent = rng.choice(self.agents)
        with agent.loses_its_endpoint():
            for pid in agent.processes():
                kill(pid)
        time.sleep(_outage(rng))
        self._starts(agent)

    def head_and_agent_are_killed(self, rng: random.Random) -> None:
        """What the head knows of a lost host only in memory is gone when the host returns."""
        agent = rng.choice(self.agents)
        agent.kill_daemon()
        time.sleep(_outage(rng))
        self.head.kill_daemon()
        self.head.launch()
        time.sleep(_outage(rng))
        self._starts(agent)


class SoakRayHosts(SoakHosts):
    """They reach each other by real Ray, on addresses of the loopback device."""

    patience_seconds = 600.0

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder, self._python = folder, python
        super().__init__(folder)

    def settings_of_hosts(self, folder: Path) -> list[dict[str, Any]]:
        return list(map(self._settings, itertools.count(), free_ports(len(NAMES))))

    def _settings(self, place: int, port: int) -> dict[str, Any]:
        peers, proxy, control = (port + unused for unused in UNUSED_PORTS)
        return {
            "cluster.python": str(self._python),
            "cluster.trust_engines": True,
            "cluster.address": f"127.0.0.{61 + place}",
            "cluster.port": port,
            "proxy.port": proxy,
            "proxy.peers_port": peers,
            "control.port": control,
        }

    def let_join(self, agent: SoakAgent) -> None:
        cluster, at = self.head.settings.cluster, agent.settings.cluster.address
        words = ("--for", agent.name, "--address", at, "--out", str(self._folder))
        made = self.head.cli("host", "certificate", *words)
        assert made.returncode == 0, made.stderr
        bundle = str(self._folder / f"{agent.name}.bundle")
        agent.join = ("--from", bundle, f"{cluster.address}:{cluster.port}")

    def acts(self) -> Sequence[Callable[..., None]]:
        return RAY_HARM

    def a_raylet_is_killed(self, rng: random.Random) -> None:
        kill_ray(rng.choice(self.all), RAYLET)()

    def rays_directory_is_killed(self, rng: random.Random) -> None:
        kill_ray(self.head, GCS)()

    def the_bridge_is_killed(self, rng: random.Random) -> None:
        kill(self.head.process_with("cluster/bridge.py"))


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
    SoakHosts.files_run_out,
    SoakHosts.a_host_loses_its_power,
    SoakHosts.head_and_agent_are_killed,
)
RAY_HARM = (
    *HARM,
    SoakRayHosts.a_raylet_is_killed,
    SoakRayHosts.rays_directory_is_killed,
    SoakRayHosts.the_bridge_is_killed,
)
