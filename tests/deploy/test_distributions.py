"""The sdist and the wheel work where nothing of the checkout is."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "deploy" / "check" / "distributions.py"


@pytest.mark.full
@pytest.mark.timeout(2400)  # it compiles what `native` gives 1,800 s for
def test_sdist_and_wheel_are_complete_and_run_the_tour_from_an_empty_environment(
    tmp_path: Path,
) -> None:
    """Then without a file each: the check refuses it."""
    made = tmp_path / "dist"
    command = ["make", "dist", f"DIST={made}", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("works in an empty environment") == 2
    (wheel,) = made.glob("*.whl")
    whole = wheel.with_suffix(".whole")
    shutil.move(wheel, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(wheel, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("csrc/call.c"):
                target.writestr(info, source.read(info))
    refused = subprocess.run(
        [sys.executable, str(CHECK), str(made)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "it lacks partitiond/simulated/gpus/csrc/call.c" in refused.stderr
