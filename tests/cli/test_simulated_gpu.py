"""Doctor, profiles and replication work in partitions of a simulated GPU host, without a daemon."""

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pynvml
import pytest

from partitiond.cli.doctor.facts import HostFacts
from partitiond.cli.doctor.findings import CheckVerdict
from partitiond.cli.doctor.gather import GatheredFacts, gpu_facts, judge
from partitiond.cli.profile.local_engines import local_engines
from partitiond.core.hardware.partition import MpsShare
from partitiond.core.units import GIB, Bytes
from partitiond.devices.mps import MpsControl
from partitiond.devices.mps.record import MpsRecord, write
from partitiond.devices.partitions.journal import read_entries
from partitiond.engines.process.journal import RunFolder, run_folders
from partitiond.gpu_host import mps_program
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.platform.process_identity import ProcessId
from partitiond.settings.schema import Settings, load_settings
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.cli.conftest import Cli
from tests.engine_fixtures import simulated_launch

QUICK = (
    "--set", "profiling.min_window_seconds=0.2", "--set", "profiling.max_window_seconds=0.4",
)  # fmt: skip
MODEL = (
    "opt-125m", "--weights", "dummy", "--engine-kind", "simulated",
    "--engine-arg=--token-seconds=0.001", "--prompt-tokens", "16", "--output-tokens", "4",
)  # fmt: skip


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
    for check in ("gpu driver", "gpu persistence", "gpu health", "mig", "mps", "engines"):
        assert [one["verdict"] for one in found[check]] == ["ok"], found[check]
    uuid = host.uuids()[0]
    host.set_health(uuid, ecc=3)
    host.add_process(uuid, os.getpid(), 5 << 30)
    found = findings(cli)
    (ill,), (company,) = found["gpu health"], found["gpu company"]
    assert ill["verdict"] == "warn"
    assert uuid in ill["message"]
    assert f"-i {uuid}" in ill["command"]
    assert "5 GiB" in company["message"]
    host.fail("nvmlInit*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, times=-1)
    (driver,) = findings(cli)["gpu driver"]
    assert (driver["verdict"], "not loaded anew" in driver["message"]) == ("fail", True)
    assert "modprobe" in driver["command"]


def test_nvml_that_hangs_is_said(host: SimulatedHost) -> None:
    for function in ("nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo_v2"):
        host.hang(function)
        facts = gpu_facts(settings(), DeadlineCalls(0.1))
        host.heal()
        assert facts.gpus == ()
        driver = judge(GatheredFacts(HostFacts(), facts), settings(), daemon_runs=False)[0]
        assert (driver.check, driver.verdict) == ("gpu driver", CheckVerdict.FAIL)
        assert "silent for 0.1 s" in driver.message


def test_leftovers_are_shown_then_fixed(cli: Cli, host: SimulatedHost, home: Path) -> None:
    stale = home / "run" / "mps" / "aabbccdd"
    (stale / "pipe").mkdir(parents=True)
    write(stale, MpsRecord("GPU-aabbccdd", ProcessId(2**22 - 1, 1, "another boot")))
    dead = RunFolder.of(home / "run", "a-1")
    dead.prepare(simulated_launch("a-1"), {})
    before = findings(cli)
    assert [one["fix"] for one in before["mps"]] == ["remove the folders"]
    assert "clear them" in before["engines"][0]["fix"]
    assert dead.path.exists()  # shown, not done

    done = cli("doctor --fix --json").ended(0, "will remove the folders").json["done"]
    assert any("cleared the run folders of a-1" in text for text in done), done
    assert any(str(stale) in text for text in done)
    assert run_folders(home / "run") == []
    assert not stale.exists()
    after = findings(cli, "--fix")
    assert [one["verdict"] for one in (*after["mps"], *after["engines"])] == ["ok", "ok"]


def test_an_engine_of_a_job_that_is_gone_is_ended_and_its_mps_daemon_with_it(
    cli: Cli, host: SimulatedHost, home: Path
) -> None:
    (home / "state").mkdir()

    uuid = host.uuids()[0]
    launch = dataclasses.replace(
        simulated_launch("profile-1"),
        device_id=uuid,
        visible_device=uuid,
        memory_bytes=4 * GIB,
        partition=MpsShare(uuid, Bytes(4 * GIB), 30),
    )

    async def left_running() -> None:
        engines = local_engines(settings(), None)
        handle = await engines.runner.start(launch)
        await engines.runner.wait_ready(handle, 60)
        engines.host.devices.close()

    asyncio.run(left_running())
    (entry,) = read_entries(home / "state" / "devices.json")
    assert entry.device_id == uuid
    (found,) = findings(cli)["engines"]
    assert "1 of profile jobs that ended: profile-1" in found["message"]
    done = cli("doctor --fix --json").json["done"]
    assert any("ended profile-1" in text for text in done), done
    assert read_entries(home / "state" / "devices.json") == ()
    control = MpsControl(home / "run", mps_program(settings()))
    assert control.running() == []
    assert host.used_bytes(uuid) == 0


# -- profiles in partitions ------------------------------------------------------------------


def profiled(cli: Cli, *arguments: str) -> dict[str, Any]:
    words = ("--max-batch", "2", "--time-limit", "3", "--no-confirm", "--json", *arguments)
    found: dict[str, Any] = cli(*QUICK, "profile", *MODEL, *words).ended(0).json
    return found


def test_profiles_of_shares_and_of_the_whole_leave_nothing(
    cli: Cli, host: SimulatedHost, home: Path
) -> None:
    shares = {
        ("--mps", "30"): ("mps", "--mps 30"),
        ("--memory", "6GiB"): ("memory", f"--memory {6 << 30}"),
        ("--device", host.uuids()[1]): ("whole", "--device"),
    }
    for words, (mode, said) in shares.items():
        found = profiled(cli, *words)
        assert found["size"]["mode"] == mode
        assert said in found["provenance"]["command"]
    assert "--memory" not in found["provenance"]["command"]
    assert read_entries(home / "state" / "devices.json") == ()
    assert all(host.used_bytes(uuid) == 0 for uuid in host.uuids())


def test_a_profile_in_a_mig_slice(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = made(home, monkeypatch, GpuDescription("a100-80gb", 1, mig=True))
    found = profiled(cli, "--mig", "1g.10gb")
    assert (found["size"]["mode"], found["size"]["mig_profile"]) == ("mig", "1g.10gb")
    assert host.geometry(host.uuids()[0]) == ()
    cli("profile", *MODEL).refused(2, "it is in MIG mode")


@pytest.mark.full
def test_replicas_under_mps_are_kept_with_the_whole_gpus_profile(
    cli: Cli, host: SimulatedHost
) -> None:
    whole = profiled(cli)
    quick = "--windows 1 --window 0.5 --batch 2 --mps --json"
    result = cli(f"tools replicate --replicas 1,2 {quick}", *MODEL[:5], *MODEL[6:])
    assert result.code == 0, result.err
    assert result.json["profiles"] == [whole["id"]]
    assert [one["mode"] for one in result.json["sharing"]] == ["mps"]
