"""Profiling without a daemon: what is asked, and what an interruption leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partitiond.cli.local_profile import choose_device, profile_request
from partitiond.core.spec import ModelSpec
from partitiond.models.catalog import CATALOG, source_for
from partitiond.ports import ProfileOptions, ResolvedModel
from partitiond.settings import load_settings


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
    spec = ModelSpec("m", source_for("opt-125m", hub=True)[0])
    model = ResolvedModel(
        spec, Path("/m"), None, CATALOG["opt-125m"].architecture, dummy_weights=True
    )
    request = profile_request(model, device, ProfileOptions(cores=cores), settings)
    assert len(request.cores) == (wanted or len(device.cores))


def test_an_interruption_is_one_line_and_leaves_no_run_folder(home: Path) -> None:
    command = [sys.executable, "-m", "partitiond", "profile", "opt-125m", "--cores", "1"]
    options = ["--weights", "dummy", "--engine-kind", "simulated"]
    running = subprocess.Popen(
        [*command, *options], env=dict(os.environ), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((home / "run").glob("*/process.json")) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "interrupted; nothing was kept"
    assert "Traceback" not in said
    assert [path for path in (home / "run").iterdir() if path.is_dir()] == []
