"""Engines that are frozen, slow to start or never ready are handled, with real processes."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.views.lists import ReplicaView
from tests.chaos.killed_fleet import KilledFleet
from tests.chaos.nursery import nursery
from tests.machine import wait_for

pytestmark = pytest.mark.full

SETTINGS = {
    "cpu.cores": [0, 1],
    "engine.probe_interval_seconds": 0.5,
    "engine.probe_timeout_seconds": 2.0,
    "engine.stop_grace_seconds": 1.0,
}


@contextlib.contextmanager
def a_fleet(**more: object) -> Iterator[KilledFleet]:
    with tempfile.TemporaryDirectory(prefix="pd-") as name, nursery({}) as bed:
        folder = Path(name)
        with KilledFleet(folder / "fleet", bed, folder / "fault", SETTINGS | more) as found:
            found.start()
            yield found
            assert found.terminate() == 0
            assert found.engines() == {}


def view(fleet: KilledFleet) -> ReplicaView:
    with fleet.client() as client:
        (found,) = client.replicas()
    return found


def test_an_engine_that_is_frozen_is_replaced() -> None:
    """It answers nothing and does not end: its probes are missed. Also one that is told to end."""
    with a_fleet() as fleet:
        fleet.serve()
        fleet.converge()
        (frozen,) = fleet.engines()["a-1"]
        os.kill(frozen, signal.SIGSTOP)

        def another() -> bool:
            now = fleet.never_twice().get("a-1", [frozen])
            return now != [frozen] and fleet.answers()

        wait_for("another engine", another, seconds=90)
        fleet.converge()
        with fleet.client() as client:
            failed = [e.message for e in client.events(limit=1000) if e.kind == "engine-failed"]
        assert any("did not answer" in message for message in failed)
        (frozen,) = fleet.engines()["a-1"]
        os.kill(frozen, signal.SIGSTOP)
        fleet.remove()
        fleet.converge()


def test_a_slow_start_outlives_the_daemon_and_is_not_begun_again() -> None:
    with a_fleet() as fleet:
        fleet.engine_args = ("--load-seconds", "6")
        fleet.serve()
        wait_for("the engine", lambda: fleet.engines().get("a-1"), seconds=60, pause=0.02)
        begun = fleet.engines()
        assert view(fleet).state == "starting"
        for _ in range(2):
            fleet.kill_daemon()
            fleet.launch()
            wait_for("the daemon", fleet.is_up, seconds=60)
            assert fleet.never_twice() == begun
        fleet.converge()
        assert fleet.engines() == begun
