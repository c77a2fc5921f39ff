"""Makes processes of a replica that no SIGKILL ends, without a broken driver."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE

PARENTS = 8
"""So many that at no moment all of their children are just being replaced."""


@contextlib.contextmanager
def undying_processes(run_dir: Path) -> Iterator[None]:
    """Marked processes; their parents, which have no mark, replace each that is killed at once."""
    mark = f"{REPLICA_DIR_VARIABLE}={shlex.quote(str(run_dir))}"
    parents = [
        subprocess.Popen(
            ["/bin/sh", "-c", f"while :; do {mark} /bin/sleep 600; done"],
            stderr=subprocess.DEVNULL,  # it would say of each that it was killed
            start_new_session=True,
        )
        for _ in range(PARENTS)
    ]
    try:
        yield
    finally:
        for parent in parents:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
