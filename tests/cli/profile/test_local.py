"""Profiles are made without a daemon, and can go on after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time
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
from partitiond.settings.schema import load_settings


@pytest.mark.parametrize(
    ("sizes", "cores", "wanted"), [("", None, 0), ("1", None, 1), ("1", 2, 2), ("4096", None, 0)]
)
def test_cores_are_the_smallest_size_of_the_settings(
    sizes: str, cores: int | None, wanted: int
) -> None:
    values = {"profiling.cpu_partition_cores": sizes, "gpu.enabled": "false"}
    settings = load_settings(None, {}, {k: v for k, v in values.items() if v}).settings
    device = choose_device(settings, ProfileOptions())
    if cores and cores > len(device.cores):
        pytest.skip("one core")
    found = partition_cores(device, cores, settings)
    assert len(found) == (wanted or len(device.cores))


def test_more_cores_than_there_are_is_refused() -> None:
    settings = load_settings(None, {}, {"gpu.enabled": "false"}).settings
    device = choose_device(settings, ProfileOptions())
    with pytest.raises(SpecError, match="cores are asked for"):
        partition_cores(device, 4096, settings)


def test_a_share_under_mps_is_of_the_models_isolation_group() -> None:
    settings = load_settings(None, {}, {"gpu.enabled": "false"}).settings
    (gpu,), under_mps = fake_gpus("a100-80gb"), ProfileOptions(sm_percent=30)
    lease = lease_here(settings, gpu, under_mps, (), "a")
    assert way_of(lease.partition) == (SharingMode.MPS, "a")
    with pytest.raises(DeviceError, match="serves one isolation group"):
        lease_here(settings, gpu, under_mps, [("a-1", lease.partition)], "b")


QUICK = (
    "--set", "profiling.min_window_seconds=0.3", "--set", "profiling.max_window_seconds=0.5",
)  # fmt: skip
MEASURE = (
    "profile", "opt-125m", "--cores", "1", "--weights", "dummy", "--engine-kind", "simulated",
    "--prompt-tokens", "16", "--output-tokens", "8", "--max-batch", "8",
    "--no-confirm", "--time-limit", "5",
)  # fmt: skip


AS_FROM_A_TERMINAL = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv[0] = 'partitiond'; runpy.run_module('partitiond', run_name='__main__')"
)
"""Shells start what runs in their background with SIGINT ignored, and that is inherited."""


def started(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", AS_FROM_A_TERMINAL, *QUICK, *MEASURE, *arguments],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(running: "subprocess.Popen[str]", true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not true() and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.05)


def checkpoints(home: Path) -> list[Path]:
    return list((home / "state" / "checkpoints").glob("*.jsonl"))


def kept_trials(home: Path) -> int:
    return sum(path.read_bytes().count(b"\n") - 1 for path in checkpoints(home))


def test_an_interruption_before_the_first_trial_is_one_line_and_leaves_nothing(home: Path) -> None:
    running = started()
    wait_until(running, lambda: bool(list((home / "run").glob("*/engine.sock"))))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; ")
    assert "Traceback" not in said
    assert run_folders(home / "run") == []


def test_an_interrupted_profile_says_how_to_go_on(home: Path) -> None:
    running = started()
    wait_until(running, lambda: kept_trials(home) >= 1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert said.splitlines()[-1] == (
        "interrupted; finished trials are kept: the same command goes on from there"
    )
    assert run_folders(home / "run") == []


@pytest.mark.full
def test_a_killed_profile_goes_on_and_a_fresh_one_does_not(home: Path) -> None:
    running = started()
    wait_until(running, lambda: kept_trials(home) >= 2)
    running.kill()
    running.communicate(timeout=300)
    kept = kept_trials(home)
    again = started("--json")
    out, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    notes = json.loads(out)["provenance"]["notes"]
    assert f"resumed after an interruption, with {kept} finished trials" in notes
    assert checkpoints(home) == []
    fresh = started("--json", "--fresh")
    out, said = fresh.communicate(timeout=300)
    assert fresh.returncode == 0, said
    assert not any("resumed" in note for note in json.loads(out)["provenance"]["notes"])


def test_what_was_measured_without_a_daemon_is_read_without_one(home: Path) -> None:
    running = started("--json")
    out, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    measured = json.loads(out)["id"]

    def read(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "partitiond", "profile", *arguments],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "No daemon runs" in done.stderr
        return done.stdout

    assert [profile["id"] for profile in json.loads(read("list", "--json"))] == [measured]
    assert json.loads(read("show", measured, "--json"))["id"] == measured
    assert json.loads(read("export", measured))["id"] == measured
