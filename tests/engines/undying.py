"""Processes of a replica that no SIGKILL ends, without a broken driver."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from partitiond.engines.process import REPLICA_DIR_VARIABLE


@contextlib.contextmanager
def undying_processes(run_dir: Path) -> Iterator[None]:
    """Marked processes, each replaced at once when it is killed."""
    ended = threading.Event()
    threads = [threading.Thread(target=_replace, args=(run_dir, ended)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _replace(run_dir: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        with subprocess.Popen(
            ["/bin/sleep", "600"], env={REPLICA_DIR_VARIABLE: str(run_dir)}
        ) as child:
            while child.poll() is None and not ended.wait(0.002):
                pass
            child.kill()
