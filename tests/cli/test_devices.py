"""`partitiond devices` works without a daemon, on a simulated host, and with one that cordons."""

from pathlib import Path

import pytest

from partitiond.cli.exits import Exit
from partitiond.core.units import GIB
from partitiond.simulated.gpus.host import SimulatedHost
from tests.cli.conftest import Cli


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    made = SimulatedHost.create("a100-80gb-mig", tmp_path / "gpus")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def test_devices_are_listed_and_shown_with_how_they_are(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.add_process(first, 2**22 + 1, 3 * GIB)
    result = cli("devices")
    assert all(words in result.out for words in (first[:12], "1 foreign process", "fine"))
    assert "No daemon answers" in result.err
    listed = {device["id"]: device for device in cli("devices --json").json}
    assert list(listed)[-1] == "cpu"
    assert len(listed[first]["mig_instances"]) == 4
    assert listed[first]["foreign"][0]["pid"] == 2**22 + 1
    shown = cli("devices show", first[:12]).out
    assert all(w in shown for w in (first, "Health", "MIG instances", "3g.40gb", "ampere 8.0"))
    assert cli("devices show", first, "--json").json["mig_mode"] == "on"
    host.set_mig_mode(first, enabled=False)
    host.set_health(first, remapped_failure=1)
    failed = cli("devices").out
    assert "failed" in failed
    assert "remapped" in failed, "why"


def test_mistakes_are_answered(
    cli: Cli, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    cli("devices show GPU-none").refused(Exit.NOT_FOUND, "no device GPU-none", host.uuids()[0])
    cli("devices show GPU-").refused(2)
    cli("devices nonsense").refused(2)
    cli("devices cordon cpu").refused(2, "needs a reason")
    cli("devices cordon cpu --reason fan").refused(5, "no daemon answers")
    monkeypatch.setenv("PARTITIOND_GPU__SIMULATED_HOST", str(tmp_path / "none"))
    gone = cli("devices")
    assert gone.code != 0
    assert "There is no simulated host" in gone.err
    assert "simulate create" in gone.err
    (home / "state").mkdir(exist_ok=True)
    for written in (b"\xff\xfe\x00", "tök".encode(), b"\x89PNG\r\n"):
        (home / "state" / "admin-token").write_bytes(written)
        cli("status").refused(Exit.FAILED, "admin-token")
