"""What runs apart sees no other process, leaves none, and its end is told."""

import subprocess
import sys
import textwrap

import pytest

from tests.mutations.refusal import ROOT

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys
    from tests.mutations.apart import can_be_apart, ended, start_apart

    def work() -> int:
        if os.fork() == 0:
            signal.pause()
        print(*sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), flush=True)
        if sys.argv[1:]:
            os.kill(os.getpid(), int(sys.argv[1]))
        return 3

    if can_be_apart():
        print(ended(os.waitpid(start_apart(work), 0)[1]))
    """
)


@pytest.mark.parametrize(("asked", "status"), [((), "3"), (("9",), "-9"), (("24",), "-24")])
def test_what_runs_apart_sees_only_its_own(asked: tuple[str, ...], status: str) -> None:
    command = [sys.executable, "-c", PROGRAM, *asked]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if not told:
        pytest.skip("this user may not have a table of processes")
    assert told.splitlines() == ["1 2 3", status]
