"""The sdist and the wheel have what is needed where nothing of the checkout is."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from partitiond.engines.install.uv_run import uv_program

ROOT = Path(__file__).resolve().parents[2]


def checked(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.check.distributions", "--contents", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_sdist_and_wheel_are_complete_and_one_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "dist"
    build = [uv_program(), "build", "--quiet", "--out-dir", str(made), "."]
    subprocess.run(build, cwd=ROOT, check=True)
    done = checked(made)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = made.glob("*.whl")
    whole = wheel.with_suffix(".whole")
    shutil.move(wheel, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(wheel, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("csrc/call.c"):
                target.writestr(info, source.read(info))
    refused = checked(made)
    assert refused.returncode == 1
    assert "it lacks partitiond/simulated/gpus/csrc/call.c" in refused.stderr


@pytest.mark.soak  # what a release is made with: it compiles for minutes
@pytest.mark.timeout(2400)
def test_both_run_the_tour_from_an_empty_environment(tmp_path: Path) -> None:
    command = ["make", "dist", f"DIST={tmp_path / 'dist'}", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("works in an empty environment") == 2
