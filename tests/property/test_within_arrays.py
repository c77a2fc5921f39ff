"""Kernels read and write only within their arrays, which compiled code does not check."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run import TIERS

ROOT = Path(__file__).parents[2]
ASKED = ("tests/planner/kernels", "tests/planner/search/test_improve.py")
"""Every kernel."""


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_no_kernel_leaves_its_arrays() -> None:
    """The same tests with the kernels as plain Python, whose arrays check each index: 15 s of a
    core, where compiling all of them with Numba's own checks takes two minutes.
    """
    checked = {"NUMBA_DISABLE_JIT": "1"}
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
