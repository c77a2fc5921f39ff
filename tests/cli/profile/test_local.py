"""Profiles are made without a daemon, and can go on after an interruption."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.cli.profile.local import choose_device, lease_here, partition_cores
from partitiond.core.errors import DeviceError, SpecError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import way_of
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.devices.fake import fake_gpus
from partitiond.engines.process.journal import run_folders
from partitiond.settings.schema import Settings, load_settings
from tests.cli.conftest import Cli
from tests.e2e.harness import wait_for


def settings_with(sizes: str = "") -> Settings:
    values = {"gpu.enabled": "false"} | ({"profiling.cpu_partition_cores": sizes} if sizes else {})
    return load_settings(None, {}, values).settings


def test_cores_are_the_smallest_size_of_the_settings() -> None:
    device = choose_device(settings_with(), ProfileOptions())
    every = len(device.cores)
    for sizes, cores, wanted in (("", None, every), ("1", None, 1), ("4096", None, every)):
        assert len(partition_cores(device, cores, settings_with(sizes))) == wanted
    assert len(partition_cores(device, every, settings_with("1"))) == every
    with pytest.raises(SpecError, match="cores are asked for"):
        partition_cores(device, 4096, settings_with())


def test_a_share_under_mps_is_of_the_models_isolation_group() -> None:
    (gpu,), under_mps = fake_gpus("a100-80gb"), ProfileOptions(sm_percent=30)
    lease = lease_here(settings_with(), gpu, under_mps, (), "a")
    assert way_of(lease.partition) == (SharingMode.MPS, "a")
    with pytest.raises(DeviceError, match="serves one isolation group"):
        lease_here(settings_with(), gpu, under_mps, [("a-1", lease.partition)], "b")


QUICK = (
    "--set", "profiling.min_window_seconds=0.3", "--set", "profiling.max_window_seconds=0.5",
)  # fmt: skip
MEASURE = (
    "profile", "opt-125m", "--cores", "1", "--weights", "dummy", "--engine-kind", "simulated",
    "--prompt-tokens", "16", "--output-tokens", "8", "--max-batch", "8",
    "--no-confirm",
)  # fmt: skip


AS_FROM_A_TERMINAL = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv[0] = 'partitiond'; runpy.run_module('partitiond', run_name='__main__')"
)
"""Shells start what runs in their background with SIGINT ignored, and that is inherited."""


def started(window_seconds: float, *arguments: str) -> "subprocess.Popen[str]":
    """One whose trials last so long."""
    window = [f"profiling.{name}_window_seconds={window_seconds}" for name in ("min", "max")]
    return subprocess.Popen(
        [sys.executable, "-c", AS_FROM_A_TERMINAL, "--set", window[0], "--set", window[1],
         *MEASURE, "--time-limit", "900", *arguments],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def wait_until(running: "subprocess.Popen[str]", what: str, true: Callable[[], bool]) -> None:
    def is_true() -> bool:
        assert running.poll() is None, running.communicate()
        return true()

    wait_for(what, is_true)


def kept_trials(home: Path) -> int:
    found = (home / "state" / "checkpoints").glob("*.jsonl")
    return sum(path.read_bytes().count(b"\n") - 1 for path in found)


@pytest.mark.full
def test_an_interrupted_profile_goes_on_and_a_fresh_one_does_not(home: Path, cli: Cli) -> None:
    """It says how to go on. One that is killed is tests/e2e's."""
    running = started(1)
    wait_until(running, "a finished trial", lambda: kept_trials(home) >= 1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert said.splitlines()[-1] == (
        "interrupted; finished trials are kept: the same command goes on from there"
    )
    assert run_folders(home / "run") == []
    kept = kept_trials(home)

    def notes(*arguments: str) -> list[str]:
        window = [f"--set=profiling.{name}_window_seconds=1" for name in ("min", "max")]
        done = cli(*window, *MEASURE, "--time-limit", 900, "--json", *arguments).ended(0)
        found: list[str] = done.json["provenance"]["notes"]
        return found

    assert f"resumed after an interruption, with {kept} finished trials" in notes()
    assert not list((home / "state" / "checkpoints").glob("*.jsonl"))
    assert not any("resumed" in note for note in notes("--fresh"))


def test_an_interruption_before_the_first_trial_is_one_line_and_leaves_nothing(home: Path) -> None:
    running = started(900)
    wait_until(running, "its engine", lambda: bool(list((home / "run").glob("*/engine.sock"))))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; ")
    assert "Traceback" not in said
    assert run_folders(home / "run") == []


def test_what_was_measured_without_a_daemon_is_read_without_one(home: Path, cli: Cli) -> None:
    profile_id = cli(*QUICK, *MEASURE, "--time-limit", 5, "--json").ended(0).json["id"]
    listed = cli("profile list --json")
    assert "No daemon runs" in listed.err
    assert [profile["id"] for profile in listed.json] == [profile_id]
    assert cli("profile show", profile_id, "--json").json["id"] == profile_id
    assert json.loads(cli("profile export", profile_id).out)["id"] == profile_id
