"""Serving goes on while the store cannot be written, as the disk is full.

Replicas keep serving, and an engine that dies is restarted. Changes that cannot be stored are
refused with the reason. Once the store can be written again, everything continues by itself.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import PartitiondError
from tests.chaos.killed_fleet import BODY, KilledFleet, kill
from tests.machine import wait_for
from tests.small_disk import fill, small_disk

pytestmark = pytest.mark.full

DISK_BYTES = 8 * 1024**2


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        yield Path(name)


@pytest.fixture
def fleet(folder: Path) -> Iterator[KilledFleet]:
    (folder / "fleet" / "state").mkdir(parents=True)
    with KilledFleet(folder / "fleet", {"cpu.cores": [0, 1]}) as found:
        yield found


@pytest.fixture
def disk(fleet: KilledFleet) -> Iterator[Path]:
    """The state folder on a disk of its own."""
    with small_disk(fleet.settings.state_dir, DISK_BYTES) as folder:
        yield folder


def test_a_full_disk(fleet: KilledFleet, disk: Path) -> None:
    fleet.start()
    fleet.serve()
    fleet.converge()
    fleet.make_key()
    before = fleet.kept()
    fill(disk)
    with fleet.client() as client:
        with pytest.raises(PartitiondError, match="disk"):
            client.register(BODY | {"name": "b"})
        with pytest.raises(PartitiondError, match="disk"):
            client.remove_key(*before["keys"])
        assert fleet.kept() == before
        assert [view.record.spec.name for view in client.models()] == ["a"]
    assert fleet.answers()
    (old,) = fleet.engines()["a-1"]
    kill(old)

    def another() -> bool:
        now = fleet.never_twice().get("a-1", [old])
        return now != [old] and fleet.answers()

    wait_for("another engine", another, seconds=60)
    fleet.sleep()
    wait_for("it to sleep", lambda: set(fleet.states().values()) == {"asleep"}, seconds=60)
    assert fleet.answers(), "a request wakes it"
    with fleet.client() as client:
        assert client.readiness().keys() & {"store", "loop"}
    (disk / "filler").unlink()
    wait_for("a store that is well again", fleet.is_well, seconds=60)
    with fleet.client() as client:
        client.register(BODY | {"name": "b"})
    fleet.converge()
    now = fleet.kept()
    assert all(before[kind] <= now[kind] for kind in before)


def test_a_daemon_that_is_started_on_a_full_disk(fleet: KilledFleet, disk: Path) -> None:
    """It adopts what runs, and starts again what dies."""
    fleet.start()
    fleet.serve()
    fleet.converge()
    running = fleet.engines()
    fleet.kill_daemon()
    fill(disk)
    fleet.launch()
    wait_for("the daemon", fleet.is_up, seconds=60)
    fleet.converge()
    assert fleet.engines() == running
    assert fleet.answers()
    kill(*running["a-1"])
    wait_for("another engine", lambda: fleet.engines().get("a-1", []) not in ([], running["a-1"]))
    (disk / "filler").unlink()
    wait_for("a store that is well again", fleet.is_well, seconds=60)
    fleet.converge()
