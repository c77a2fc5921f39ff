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


def test_devices_are_listed_with_how_they_are(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.add_process(first, 2**22 + 1, 3 * GIB)
    result = cli("devices")
    assert result.code == 0
    assert first[:12] in result.out
    assert "1 foreign process" in result.out
    assert "fine" in result.out
    assert "No daemon answers" in result.err
    shown = {device["id"]: device for device in cli("devices --json").json}
    assert list(shown)[-1] == "cpu"
    assert len(shown[first]["mig_instances"]) == 4
    assert shown[first]["foreign"][0]["pid"] == 2**22 + 1


def test_one_device_is_shown_whole(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    shown = cli("devices show", first[:12])
    assert shown.code == 0
    for word in (first, "Health", "MIG instances", "3g.40gb", "ampere 8.0"):
        assert word in shown.out
    assert cli("devices show", first, "--json").json["mig_mode"] == "on"


def test_a_failed_gpu_says_why(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.set_mig_mode(first, enabled=False)
    host.set_health(first, remapped_failure=1)
    result = cli("devices")
    assert "failed" in result.out
    assert "remapped" in result.out


def test_mistakes_are_answered(cli: Cli, host: SimulatedHost) -> None:
    missing = cli("devices show GPU-none")
    assert (missing.code, "no device GPU-none" in missing.err) == (Exit.NOT_FOUND, True)
    assert host.uuids()[0] in missing.err
    several = cli("devices show GPU-")
    assert several.code == 2
    assert cli("devices nonsense").code == 2


def test_a_cordon_needs_a_reason_and_a_daemon(cli: Cli) -> None:
    result = cli("devices cordon cpu")
    assert (result.code, "needs a reason" in result.err) == (2, True)
    result = cli("devices cordon cpu --reason fan")
    assert "no daemon answers" in result.err
    assert result.code != 0


def test_a_host_whose_simulated_gpus_are_gone_says_so(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARTITIOND_GPU__SIMULATED_HOST", str(tmp_path / "none"))
    result = cli("devices")
    assert result.code != 0
    assert "There is no simulated host" in result.err
    assert "simulate create" in result.err


@pytest.mark.parametrize("written", [b"\xff\xfe\x00", "tök".encode(), b"\x89PNG\r\n"])
def test_a_token_file_that_holds_no_token_is_named(cli: Cli, home: Path, written: bytes) -> None:
    (home / "state").mkdir()
    (home / "state" / "admin-token").write_bytes(written)
    result = cli("status")
    assert result.code == Exit.FAILED
    assert "admin-token" in result.err
    assert "Traceback" not in result.err
