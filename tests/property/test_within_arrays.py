"""Compiled code reads and writes only within its arrays, which no other check covers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run import TIERS

ROOT = Path(__file__).parents[2]
ASKED = ("tests/planner/kernels", "tests/planner/search/test_improve.py")
"""Every kernel: most of the test's time is compiling them."""


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    """The same tests with the checks that Numba leaves out by default; it compiles afresh, and
    optimises less, because most of the test's time is compiling.
    """
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", TIERS["test"], *ASKED],
        cwd=ROOT,
        env=os.environ | checked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
