"""The tour on simulated A100s (`make tour-gpus`), as somebody without a GPU runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import clean_environment

SCRIPT = Path(__file__).parents[2] / "examples" / "simulated-gpus" / "tour.sh"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_tour_runs_unattended_and_leaves_nothing_behind(tmp_path: Path) -> None:
    partitiond = Path(sys.executable).with_name("partitiond")
    environment = clean_environment() | {
        "PARTITIOND": str(partitiond),
        "PYTHON": sys.executable,
        # Sockets need short paths: the system's folder for temporary files, emptied by the script.
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=390, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for words in (
        "All 14 replicas serve",
        "MIG 4g.40gb@0",
        "MPS 10 %",
        "GPU is lost",
        "1 foreign process with 20 GiB",
        "nothing in the device journal",
        "3g.40gb@4",
        "That was the tour",
    ):
        assert words in done.stdout
    assert done.stdout.count("The daemon is stopped.") == 2
