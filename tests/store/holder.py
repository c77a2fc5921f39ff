"""Holds the store's lock in another process, as a backup or an sqlite3 shell may."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HOLD: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(program: str, *args: Path | str) -> Iterator["subprocess.Popen[bytes]"]:
    """A program of Python that has said "held", and is killed at the end."""
    command = [sys.executable, "-c", program, *map(str, args)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        try:
            yield other
        finally:
            other.kill()


@contextlib.contextmanager
def locked(path: Path | str, pragma: str = "SELECT 1") -> Iterator[None]:
    """Nobody else can write the store meanwhile."""
    with running(_HOLD, path, pragma):
        yield
