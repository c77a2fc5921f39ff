"""Checks whether the endpoint's hot path runs compiled."""

import sys

from partitiond import native
from partitiond.cli.doctor.findings import DoctorFinding, ok, warn


def check_native(*, built: bool, problem: str | None) -> DoctorFinding:
    """Check the hot path. It works either way; compiled, a request takes about half the CPU time.

    Args:
        problem: why the hot path cannot be compiled here, or None.
    """
    if built:
        return ok("endpoint", "its hot path is compiled")
    command = f"{sys.executable} -m partitiond.native"
    if problem is None:
        advice = "compile it once, as the daemon's user; the next proxy uses it"
    else:
        advice = f"to compile it, mend this first: {problem}"
    return warn("endpoint", "its hot path is not compiled: twice the CPU time", advice, command)


def examine_native() -> DoctorFinding:
    """Check the hot path for this installation and user."""
    return check_native(built=native.is_built(), problem=native.problem())
