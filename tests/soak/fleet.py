"""Runs the fleet that a soak harms: two simulated GPUs under MPS, three models, their load."""

import contextlib
import os
import random
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.devices.mps import MpsControl
from partitiond.devices.partitions.journal import read_entries
from partitiond.platform.fault_points import FaultPoint
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.chaos.killed_fleet import KilledFleet, kill
from tests.chaos.nursery import Nursery
from tests.e2e.harness import Load, wait_for

MODELS = {"busy": 2, "calm": 1, "dozy": 1}
SLEEPER = "dozy"
PATIENCE_SECONDS = 75.0
LOCKED_SECONDS = 7.0
"""Longer than the daemon waits for a lock."""
HUNG_SECONDS = 0.5, 2.0
"""Pause between two probes, and what one may take."""
_BESIDE = re.compile(r"(-\d+)\.\d+$")
POINTS = tuple(p for p in FaultPoint if p.value.startswith(("engine.", "table.", "partition.",
                                                            "store.", "engines.")))  # fmt: skip
"""Points that are passed while something else is going on."""


class SoakFleet(KilledFleet):
    """What random harm can be done to it, and whether it is well again."""

    def __init__(self, folder: Path, nursery: Nursery, faults: Path) -> None:
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
        super().__init__(folder / "fleet", nursery, faults, settings)
        self.replica_counts = dict(MODELS)

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
                    "min_replicas": self.replica_counts[name],
                    "max_replicas": self.replica_counts[name],
                    "auto": False,
                    "engine": {"sleep_mode": True, "extra_args": ["--token-seconds", "0.004"]},
                }
            )

    def plan(self) -> None:
        """Plan and apply; again where the world changed meanwhile, as a user would."""

        def applied() -> bool:
            with contextlib.suppress(PartitiondError), self.client() as client:
                plan = client.plan().plan
                placed = [p.model for p in plan.placements]
                asleep = {v.record.spec.name for v in client.models() if v.asleep}
                if any(n not in placed for n in MODELS if n not in asleep):
                    return False
                with contextlib.suppress(ConflictError):
                    client.apply(plan.id)
                    return True
            return False

        wait_for("a plan with every model", applied, seconds=PATIENCE_SECONDS, pause=0.3)

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

    def require_well(self) -> float:
        """Seconds until everything is as the store says."""
        began = time.monotonic()
        last = "nothing was asked yet"

        def well() -> bool:
            nonlocal last
            try:
                last = self.trouble()
            except PartitiondError as error:
                last = str(error)
            return not last

        try:
            wait_for("a fleet that is well", well, seconds=PATIENCE_SECONDS, pause=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}\n{self.log.read_text()[-6000:]}") from error
        return time.monotonic() - began

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

    # --- harm -------------------------------------------------------------------------------------

    def an_engine_is_killed(self, rng: random.Random) -> None:
        kill(self._some_engine(rng))

    def an_engine_freezes(self, rng: random.Random) -> None:
        pid = self._some_engine(rng)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        wait_for("the frozen engine to be ended", lambda: not Path(f"/proc/{pid}").exists(),
                 seconds=PATIENCE_SECONDS)  # fmt: skip

    def a_supervisor_is_killed(self, rng: random.Random) -> None:
        with contextlib.suppress(ProcessLookupError):
            kill(os.getsid(self._some_engine(rng)))

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
        with contextlib.suppress(AssertionError):
            wait_for("the point", lambda: not self.is_alive, seconds=3)
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

    def another_plan(self, rng: random.Random) -> None:
        """One replica more or less."""
        with self.client() as client:
            view = client.model("busy")
            count = 1 if view.replicas_planned > 1 else 2
            changes = {"min_replicas": count, "max_replicas": count}
            client.update("busy", changes, view.record.version)
        self.plan()

    def the_store_is_locked(self, rng: random.Random) -> None:
        lock = sqlite3.connect(self.settings.store_path, isolation_level=None)
        with contextlib.closing(lock):
            lock.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED_SECONDS)

    def mps_has_a_fault(self, rng: random.Random) -> None:
        with contextlib.suppress(IndexError):  # nobody is under MPS now
            for pid in sorted(MpsControl(self.run_dir, str(self.host.mps_control)).pids())[:1]:
                kill(pid)

    def a_gpu_is_lost(self, rng: random.Random) -> None:
        """It falls off the bus, and comes back after a while; an operator takes the cordon off."""
        uuid = rng.choice(self.host.uuids())
        self.host.lose(uuid)

        def cordoned() -> bool:
            with contextlib.suppress(PartitiondError), self.client() as client:
                return any(d.id == uuid and d.cordon_reason for d in client.devices())
            return False

        wait_for("its cordon", cordoned, seconds=PATIENCE_SECONDS)
        self.host.restore(uuid)
        with self.client() as client:
            client.uncordon(uuid)

    def _some_engine(self, rng: random.Random) -> int:
        def found() -> list[int]:
            return sorted(pid for pids in self.engines().values() for pid in pids)

        return rng.choice(wait_for("an engine", found, seconds=PATIENCE_SECONDS))


HARM = (
    SoakFleet.an_engine_is_killed,
    SoakFleet.an_engine_freezes,
    SoakFleet.a_supervisor_is_killed,
    SoakFleet.the_endpoint_is_killed,
    SoakFleet.the_daemon_is_killed,
    SoakFleet.the_daemon_is_killed_at_a_point,
    SoakFleet.a_model_sleeps_and_wakes,
    SoakFleet.another_plan,
    SoakFleet.the_store_is_locked,
    SoakFleet.mps_has_a_fault,
    SoakFleet.a_gpu_is_lost,
)
