"""An engine that is frozen is replaced, with real processes."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.chaos.killed_fleet import KilledFleet
from tests.machine import wait_for

pytestmark = pytest.mark.full

SETTINGS = {
    "cpu.cores": [0, 1],
    "engine.probe_interval_seconds": 0.5,
    "engine.probe_timeout_seconds": 2.0,
    "engine.stop_grace_seconds": 1.0,
}


def test_an_engine_that_is_frozen_is_replaced() -> None:
    """It answers nothing and does not end: its probes are missed. Also one that is told to end."""
    with (
        tempfile.TemporaryDirectory(prefix="pd-") as name,
        KilledFleet(Path(name) / "fleet", SETTINGS) as fleet,
    ):
        fleet.start()
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
        assert fleet.terminate() == 0
        assert fleet.engines() == {}
