"""A command that follows `partitiond serve &` waits for the daemon, and fails at once without."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cli import starting
from partitiond.cli.starting import Starting, serve_begins


def test_a_daemon_is_waited_for_while_it_holds_the_lock_and_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "daemon.lock"
    assert not Starting(lock).wait()
    lock.touch()
    assert not Starting(lock).wait()
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waits = Starting(lock)
        assert waits.wait()
        assert waits.wait()
        assert capsys.readouterr().err.count("starting") == 1
        monkeypatch.setattr(starting, "LONGEST_SECONDS", 0.0)
        assert not Starting(lock).wait()
    assert not waits.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is that of a daemon that has not taken its lock yet."""
    words = [sys.executable, "-c", "print(flush=True); input()", "/x/bin/partitiond", "serve"]
    environment = {**os.environ, "PARTITIOND_STATE_DIR": str(tmp_path / "own")}
    with subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.usefixtures("serve")
def test_a_daemon_that_has_just_been_started_counts_for_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serve_begins(tmp_path / "own")
    assert not serve_begins(tmp_path / "other")
    monkeypatch.setattr(starting, "_YOUNG_SECONDS", 0.0)
    assert not serve_begins(tmp_path / "own")
