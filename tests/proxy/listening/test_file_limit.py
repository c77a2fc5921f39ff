"""The proxy raises its limit of open files."""

import contextlib
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.proxy.process import read_identity


@contextlib.contextmanager
def started(folder: Path, soft: int, hard: int, **options: int) -> Iterator[int]:
    """A proxy that is started with these limits; its process id."""
    child = subprocess.Popen(
        ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh",
         sys.executable, "-m", "partitiond.proxy", "--port", "0", "--state-dir", str(folder),
         "--control-socket", str(folder / "c.sock"), "--log-file", str(folder / "log"),
         "--settings-json", json.dumps(options)],
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while read_identity(folder) is None:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def workers_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_soft_limit_is_raised_to_the_hard_one(folder: Path, workers: int) -> None:
    with started(folder, 128, 1000, max_connections=100, workers=workers) as pid:
        assert soft_limit(pid) == 1000
        if workers > 1:
            assert all(soft_limit(worker) == 1000 for worker in workers_of(pid))
