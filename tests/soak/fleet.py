"""Runs the fleet that a soak harms: two simulated GPUs under MPS, three models, their load."""

import contextlib
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from partitiond.core.errors import PartitiondError
from partitiond.devices.mps import MpsControl
from partitiond.devices.partitions.journal import read_entries
from partitiond.platform.fault_points import FaultPoint
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.chaos.killed_fleet import KilledFleet, kill
from tests.e2e.harness import Fleet, Load
from tests.machine import wait_for
from tests.soak.harmed import COMMON_HARM, Harmed

MODELS = {"busy": 2, "calm": 1, "dozy": 1}
SLEEPER = "dozy"
HUNG_SECONDS = 0.5, 2.0
"""Pause between two probes, and what one may take."""
_BESIDE = re.compile(r"(-\d+)\.\d+$")
POINTS = tuple(p for p in FaultPoint if p.value.startswith(("engine.", "table.", "partition.",
                                                            "store.", "engines.")))  # fmt: skip
"""Points that are passed while something else is going on."""


class SoakFleet(KilledFleet, Harmed):
    """What random harm can be done to it, and whether it is well again."""

    def __init__(self, folder: Path) -> None:
        described = HostDescription("two", (GpuDescription("a100-80gb", 2),), cores=16)
        self.host = SimulatedHost.create(described, folder / "host")
        settings: dict[str, object] = {
            "gpu.enabled": True,
            "gpu.simulated_host": str(self.host.folder),
            "cpu.enabled": False,
            "engine.probe_interval_seconds": HUNG_SECONDS[0],
            "engine.probe_timeout_seconds": HUNG_SECONDS[1],
            "engine.stop_grace_seconds": 2.0,
            "engine.drain_deadline_seconds": 20.0,
        }
        super().__init__(folder / "fleet", settings)
        self.replicas_of = dict(MODELS)

    def fleets(self) -> Mapping[Fleet, SimulatedHost]:
        return {self: self.host}

    def all_engines(self) -> list[int]:
        return sorted(pid for pids in self.engines().values() for pid in pids)

    def look(self) -> None:
        """Raises AssertionError if an engine is there twice."""
        self.never_twice()

    @contextlib.contextmanager
    def load(self) -> Iterator[list[Load]]:
        """Streams at the endpoint."""
        with Load(self.base_url, dict.fromkeys(MODELS, 2), tokens=16).running() as running:
            yield [running]

    def cleanup(self) -> None:
        self.host.heal()
        super().cleanup()

    # --- asking for it --------------------------------------------------------------------------

    def begin_to_serve(self) -> None:
        self.start()
        for name in MODELS:
            self._register(name)
        self.plan()
        self.require_well()

    def _register(self, name: str) -> None:
        with self.client() as client:
            client.register(
                {
                    "name": name,
                    "model": "opt-125m",
                    "weights": "dummy",
                    "engine_kind": "simulated",
                    "workload": {"prompt_tokens": 16, "output_tokens": 16},
                    "min_replicas": self.replicas_of[name],
                    "max_replicas": self.replicas_of[name],
                    "auto": False,
                    "engine": {"sleep_mode": True, "extra_args": ["--token-seconds", "0.004"]},
                }
            )

    # --- whether it is well -----------------------------------------------------------------------

    def trouble(self) -> str:
        """What is not as the store says; empty once everything is."""
        with self.client() as client:
            problems = client.readiness()
        if problems:
            return f"not ready: {problems}"
        wanted, states = self.wanted(), self.states()
        # One that was started beside the one that it replaced has a number of its own.
        named = {_BESIDE.sub(r"\1", name): state for name, state in states.items()}
        if named != wanted or len(states) != len(wanted):
            return f"{states}, not {wanted}"
        running = self.never_twice()
        if len(running) != len(wanted):
            return f"runs {sorted(running)} for {sorted(wanted)}"
        for name in MODELS:
            if not self.generates(name):
                return f"{name} does not answer"
        return ""

    def generates(self, name: str) -> bool:
        import httpx

        body = {"model": name, "prompt": "Once", "max_tokens": 2}
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(f"{self.base_url}/completions", json=body, timeout=60)
            return answer.is_success or answer.status_code == 429  # others may fill it
        return False

    def require_clean(self) -> None:
        """Everything is ended, and the host is as it was found."""
        self.terminate()
        wait_for("the memory to be free", lambda: not self._held(), seconds=30)
        assert read_entries(self.settings.state_dir / "devices.json") == ()
        assert sorted(MpsControl(self.run_dir, str(self.host.mps_control)).pids()) == []
        assert self.engines() == {}
        assert self.processes() == []
        with sqlite3.connect(self.settings.store_path) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def _held(self) -> list[int]:
        return [used for uuid in self.host.uuids() if (used := self.host.used_bytes(uuid))]

    def acts(self) -> Sequence[Callable[..., None]]:
        """What harm is done to it."""
        return HARM

    # --- harm -------------------------------------------------------------------------------------

    def the_endpoint_is_killed(self, rng: random.Random) -> None:
        kill(self.process_with("partitiond.proxy"))

    def the_daemon_is_killed(self, rng: random.Random) -> None:
        self.kill_daemon()
        if rng.random() < 0.5:
            self.an_engine_is_killed(rng)
        self.start()

    def the_daemon_is_killed_at_a_point(self, rng: random.Random) -> None:
        """And something is going on, so that it comes there; if it does not, so be it."""
        self.arm(rng.choice(POINTS))
        with contextlib.suppress(PartitiondError):
            self._sleep_or_wake(rng)
        self.an_engine_is_killed(rng)
        for _ in range(60):
            time.sleep(0.05 * self.is_alive)
        self.disarm()
        if not self.is_alive:
            self.start()
        with self.client() as client:
            client.wake(SLEEPER)

    def a_model_sleeps_and_wakes(self, rng: random.Random) -> None:
        self._sleep_or_wake(rng)
        time.sleep(rng.random())
        with self.client() as client:
            client.wake(SLEEPER)

    def _sleep_or_wake(self, rng: random.Random) -> None:
        with self.client() as client:
            client.sleep(SLEEPER)

    def mps_has_a_fault(self, rng: random.Random) -> None:
        with contextlib.suppress(IndexError):  # nobody is under MPS now
            for pid in sorted(MpsControl(self.run_dir, str(self.host.mps_control)).pids())[:1]:
                kill(pid)


HARM = (
    *COMMON_HARM,
    SoakFleet.the_endpoint_is_killed,
    SoakFleet.the_daemon_is_killed,
    SoakFleet.the_daemon_is_killed_at_a_point,
    SoakFleet.a_model_sleeps_and_wakes,
    SoakFleet.mps_has_a_fault,
)
