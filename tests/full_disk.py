"""A disk in this process that refuses writes from a chosen one on, as a full disk does."""

import builtins
import errno
import io
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from partitiond.store import Store
from partitiond.store.connection import IMMEDIATE


class FullDisk:
    """Has a folder, and the stores that are put there.

    Attributes:
        left: how many writes it takes from now on.
        refused: how many it refused.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = math.inf
        self.refused = 0
        self._folder = str(folder.resolve())
        for owner, name, writes in _CALLS:
            monkeypatch.setattr(owner, name, self._counting(getattr(owner, name), writes))

    def holds(self, store: Store) -> None:
        """The store's file is on it."""

        def commits(connection: Connection) -> None:
            if connection.get_execution_options().get(IMMEDIATE) and not self._takes_one():
                full = sqlite3.OperationalError("database or disk is full")
                raise OperationalError("COMMIT", {}, full)

        event.listen(store._engine, "commit", commits)

    def has_room(self) -> None:
        self.left = math.inf

    def _takes_one(self) -> bool:
        self.left -= 1
        self.refused += self.left < 0
        return self.left >= 0

    def _counting(self, real: Callable[..., Any], writes: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            is_there = not isinstance(path, int) and self._is_there(path)
            if is_there and writes(*rest, **named) and not self._takes_one():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, *rest, **named)

        return call

    def _is_there(self, path: Any) -> bool:
        there: str = os.path.abspath(os.fspath(path))  # noqa: PTH100 - `Path` opens by these calls
        return there.startswith(f"{self._folder}/")


def _in_mode(mode: str = "r", *_: Any, **__: Any) -> bool:
    return not set(mode).isdisjoint("wax+")


def _by_flags(flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & (os.O_TRUNC | os.O_EXCL))


def _always(*_: Any, **__: Any) -> bool:
    return True


_CALLS: Final = (
    (os, "open", _by_flags),
    (os, "mkdir", _always),
    (io, "open", _in_mode),
    (builtins, "open", _in_mode),
)
"""The calls by which Python makes files and folders, and what tells that one writes."""
