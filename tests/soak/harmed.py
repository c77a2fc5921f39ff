"""Does the harm that one host and several have in common, and waits until all is well."""

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from partitiond.client.client import ControlClient
from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.simulated.gpus import SimulatedHost
from tests.chaos.killed_fleet import kill
from tests.e2e.harness import Fleet
from tests.machine import wait_for

LOCKED_SECONDS = 7.0
"""Longer than the daemon waits for a lock."""


class Harmed:
    """What is harmed: engines of some models on simulated GPUs.

    Attributes:
        replicas_of: the number of each model's replicas.
        fewest, most: replicas of the first model, whose number changes.
        patience_seconds: within which it is well again by itself.
    """

    replicas_of: dict[str, int]
    fewest, most = 1, 2
    patience_seconds = 75.0

    # --- what it is -------------------------------------------------------------------------------

    def client(self) -> ControlClient:
        """Of its daemon."""
        raise NotImplementedError

    def fleets(self) -> Mapping[Fleet, SimulatedHost]:
        """Its hosts with their GPUs, the daemon's own first."""
        raise NotImplementedError

    def all_engines(self) -> list[int]:
        """Processes of engines."""
        raise NotImplementedError

    def trouble(self) -> str:
        """What is not as the store says; empty once everything is."""
        raise NotImplementedError

    # --- asking for it ----------------------------------------------------------------------------

    def plan(self) -> None:
        """Plan and apply; again where the world changed meanwhile, as a user would."""

        def applied() -> bool:
            with contextlib.suppress(PartitiondError), self.client() as client:
                plan = client.plan().plan
                placed = [p.model for p in plan.placements]
                asleep = {v.record.spec.name for v in client.models() if v.asleep}
                wanted = {n: many for n, many in self.replicas_of.items() if n not in asleep}
                if any(placed.count(name) < many for name, many in wanted.items()):
                    return False
                with contextlib.suppress(ConflictError):
                    client.apply(plan.id)
                    return True
            return False

        wait_for("a plan with every model", applied, seconds=self.patience_seconds, pause=0.3)

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
            wait_for("all to be well", well, seconds=self.patience_seconds, pause=0.05)
        except AssertionError as error:
            logs = "\n".join(one.log.read_text()[-6000:] for one in self.fleets())
            raise AssertionError(f"{error}: {last}\n{logs}") from error
        return time.monotonic() - began

    # --- harm -------------------------------------------------------------------------------------

    def an_engine_is_killed(self, rng: random.Random) -> None:
        kill(self._some_engine(rng))

    def an_engine_freezes(self, rng: random.Random) -> None:
        self._freezes(self._some_engine(rng))

    def _freezes(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        wait_for("what is frozen to be ended", lambda: not Path(f"/proc/{pid}").exists(),
                 seconds=self.patience_seconds)  # fmt: skip

    def a_supervisor_is_killed(self, rng: random.Random) -> None:
        with contextlib.suppress(ProcessLookupError):
            kill(os.getsid(self._some_engine(rng)))

    def another_plan(self, rng: random.Random) -> None:
        """One replica more or less."""
        name = next(iter(self.replicas_of))
        with self.client() as client:
            view = client.model(name)
            count = self.fewest if view.replicas_planned > self.fewest else self.most
            changes = {"min_replicas": count, "max_replicas": count}
            client.update(name, changes, view.record.version)
        self.replicas_of[name] = count
        self.plan()

    def the_store_is_locked(self, rng: random.Random) -> None:
        head = next(iter(self.fleets()))
        lock = sqlite3.connect(head.settings.store_path, isolation_level=None)
        with contextlib.closing(lock):
            lock.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED_SECONDS)

    def a_gpu_is_lost(self, rng: random.Random) -> None:
        """It falls off the bus, and comes back after a while; an operator takes the cordon off."""
        host = rng.choice(list(self.fleets().values()))
        uuid = rng.choice(host.uuids())
        host.lose(uuid)

        def cordoned() -> bool:
            with contextlib.suppress(PartitiondError), self.client() as client:
                return any(d.id == uuid and d.cordon_reason for d in client.devices())
            return False

        wait_for("its cordon", cordoned, seconds=self.patience_seconds)
        host.restore(uuid)
        with self.client() as client:
            client.uncordon(uuid)

    def _some_engine(self, rng: random.Random) -> int:
        return rng.choice(wait_for("an engine", self.all_engines, seconds=self.patience_seconds))


COMMON_HARM = (
    Harmed.an_engine_is_killed,
    Harmed.an_engine_freezes,
    Harmed.a_supervisor_is_killed,
    Harmed.another_plan,
    Harmed.the_store_is_locked,
    Harmed.a_gpu_is_lost,
)
