"""The doctor judges a simulated GPU host, without a daemon."""

import json
import os
from pathlib import Path
from typing import Any

import pynvml
import pytest

from partitiond.cli.doctor.devices import examine_devices
from partitiond.devices.host import HostDevices
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.settings.schema import Settings, load_settings
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.cli.conftest import Cli


def made(home: Path, monkeypatch: pytest.MonkeyPatch, *gpus: GpuDescription) -> SimulatedHost:
    host = SimulatedHost.create(HostDescription("doctored", gpus), home / "host")
    monkeypatch.setenv("PARTITIOND_GPU__SIMULATED_HOST", str(home / "host"))
    return host


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    return made(home, monkeypatch, GpuDescription("a100-80gb", 2))


def settings() -> Settings:
    return load_settings(None, os.environ, {}).settings


def findings(cli: Cli, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """By check."""
    found = json.loads(cli("doctor --json", *arguments).out)
    by_check: dict[str, list[dict[str, Any]]] = {}
    for one in found["findings"] if isinstance(found, dict) else found:
        by_check.setdefault(one["check"], []).append(one)
    return by_check


# -- doctor --------------------------------------------------------------------------------------


def test_what_the_driver_tells_of_a_host_is_found(cli: Cli, host: SimulatedHost) -> None:
    found = findings(cli)
    for check in ("devices", "gpus", "mps", "engines"):
        assert [one["verdict"] for one in found[check]] == ["ok"], found[check]
    uuid = host.uuids()[0]
    host.set_health(uuid, ecc=3)
    found = findings(cli)
    (ill,) = found["gpus"]
    assert ill["verdict"] == "warn"
    assert uuid in ill["message"]
    assert ill["command"] == f"partitiond devices {uuid}"
    host.fail("nvmlInit*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, times=-1)
    (driver,) = findings(cli)["devices"]
    assert (driver["verdict"], "differ in version" in driver["advice"]) == ("fail", True)


def test_nvml_that_hangs_is_said(host: SimulatedHost) -> None:
    for function in ("nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo_v2"):
        host.hang(function)
        named = settings().gpu.simulated_host
        look = HostDevices(cpu=False, simulated_host=named, looks=DeadlineCalls(0.1))
        found = examine_devices(settings(), look)
        host.heal()
        wrong = [one for one in found if one.verdict == "fail"]
        assert "silent for 0.1 s" in wrong[0].message, found
