"""Checks whether the endpoint's hot path and the planner's loops run compiled."""

import sys

from partitiond import native
from partitiond.cli.doctor.findings import DoctorFinding, ok, warn


def check_native(*, built: bool, problem: str | None) -> DoctorFinding:
    """Check what is compiled. It works either way; compiled, a request takes about half the CPU
    time, and a step of a plan's search a fiftieth.

    Args:
        problem: why nothing can be compiled here, or None.
    """
    if built:
        return ok("endpoint", "its hot path and the planner's loops are compiled")
    command = f"{sys.executable} -m partitiond.native"
    if problem is None:
        advice = "compile it once (`partitiond setup --apply` does), then restart the daemon"
    else:
        advice = f"to compile it, mend this first: {problem}"
    return warn(
        "endpoint",
        "its hot path or the planner's loops are not compiled: 2 and 50 times the CPU time",
        advice,
        command,
    )


def examine_native() -> DoctorFinding:
    """Check what is compiled for this installation and user."""
    built = all(map(native.is_built, (native.PROXY, native.PLANNER)))
    return check_native(built=built, problem=native.problem())
