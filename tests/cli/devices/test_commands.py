"""`partitiond devices` shows a simulated host."""

from pathlib import Path

import pytest

from partitiond.cli.exits import Exit
from partitiond.core.units import GIB
from partitiond.simulated.gpus import SimulatedHost
from tests.cli.conftest import Cli


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    return use(SimulatedHost.create("a100-80gb-mig", tmp_path / "gpus"), monkeypatch)


def use(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    for name, value in host.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PARTITIOND_GPU__MIG_HELPER", str(host.folder / "no-helper.sock"))
    return host


def test_devices_are_listed_and_shown_with_how_they_are(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.add_process(first, 2**22 + 1, 3 * GIB)
    cli("devices").ended(0, first[:12], "1 foreign process", "fine", "No daemon answers")
    listed = {device["id"]: device for device in cli("devices --json").json}
    assert list(listed)[-1] == "cpu"
    assert len(listed[first]["mig_instances"]) == 4
    assert listed[first]["foreign"][0]["pid"] == 2**22 + 1
    shown = cli("devices show", first[:12])
    shown.ended(0, first, "Health", "MIG instances", "3g.40gb", "ampere 8.0")
    assert cli("devices show", first, "--json").json["mig_mode"] == "on"
    host.set_mig_mode(first, enabled=False)
    host.set_health(first, remapped_failure=1)
    cli("devices").ended(0, "failed", "remapped")


def test_mistakes_are_answered(
    cli: Cli, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    cli("devices show GPU-none").refused(Exit.NOT_FOUND, "no device GPU-none", host.uuids()[0])
    cli("devices show GPU-").refused(2)
    cli("devices nonsense").refused(2, "`partitiond devices show nonsense` shows one")
    cli("devices cordon cpu --lift --reason fan").refused(2, "--lift keeps no reason")
    cli("devices cordon cpu").refused(2, "needs a reason")
    cli("devices cordon cpu --reason fan").refused(5, "no daemon answers")
    monkeypatch.setenv("PARTITIOND_GPU__SIMULATED_HOST", str(tmp_path / "none"))
    cli("devices").refused(Exit.NOT_FOUND, "There is no simulated host", "simulate create")
    (home / "state").mkdir(exist_ok=True)
    for written in (b"\xff\xfe\x00", "tök".encode(), b"\x89PNG\r\n"):
        (home / "state" / "admin-token").write_bytes(written)
        cli("status").refused(Exit.FAILED, "admin-token")
