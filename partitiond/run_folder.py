"""Ties a run folder to one state folder, whose daemon adopts and ends the folder's processes.

Two daemons on one run folder would each find the other's engines, endpoint and MPS daemons, and end
those that its own plan does not want. So the folder is locked while a daemon or a profile uses it,
and it names its owner: only the owner's next daemon adopts processes that a killed daemon left.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond import serde
from partitiond.core.errors import ConflictError, InputError, StoreError
from partitiond.devices.mps import record
from partitiond.engines.process.journal import run_folders
from partitiond.platform.process_identity import is_alive
from partitiond.proxy.process import read_identity
from partitiond.settings.schema import Settings
from partitiond.store.lock import StateFolderBusyError, StateLock

LOCK: Final = ".lock"
OWNER: Final = ".owner.json"


class RunFolderBusyError(ConflictError):
    """The run folder belongs to another state folder."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunFolderOwner:
    """The owner of a run folder.

    Attributes:
        state_dir: the state folder of the daemon that last used it.
    """

    state_dir: str


@contextlib.contextmanager
def owned_run_folder(settings: Settings) -> Iterator[None]:
    """Hold the run folder for this state folder. The caller holds the state folder's lock.

    Raises:
        RunFolderBusyError: a daemon of another state folder uses it, or left processes there that
            only that daemon may adopt; or processes run there whose owner cannot be read.
        StoreError: the folder cannot be written or cannot be locked.
    """
    folder, mine = settings.run_dir, str(settings.state_dir.resolve())
    try:
        lock = StateLock.acquire(folder / LOCK)
    except StateFolderBusyError as error:
        owner = _owner(folder) or ""
        raise _busy(folder, f"is in use by process {error.facts['pid']}", owner) from error
    with lock:
        other = _owner(folder)
        running = [] if other in ("", mine) else _what_runs(folder, other)
        if running:
            what = f"has {', '.join(running)} running"
            raise _unknown(folder, what) if other is None else _busy(folder, what, other)
        _write(folder, mine)
        yield


def _owner(folder: Path) -> str | None:
    """The owner's state folder; empty if there is none, None if it cannot be read."""
    try:
        return serde.from_stored_json(RunFolderOwner, (folder / OWNER).read_bytes()).state_dir
    except FileNotFoundError:
        return ""
    except (OSError, InputError):
        return None


def _write(folder: Path, mine: str) -> None:
    fresh = folder / f"{OWNER}.new"
    try:
        fresh.write_text(serde.to_stored_json(RunFolderOwner(mine)), encoding="utf-8")
        os.replace(fresh, folder / OWNER)  # noqa: PTH105
    except OSError as error:
        raise StoreError(
            f"the run folder {folder} cannot be written: {error.strerror}.",
            hint="Make it writable for this user, with some room on its disk.",
            facts={"path": str(folder)},
        ) from error


def _what_runs(folder: Path, owner: str | None) -> list[str]:
    """Names of living engines, MPS daemons and endpoint of the run folder and of its owner, a state
    folder (None: the owner is not known); nothing if the owner's folder is gone."""
    if owner is not None and not Path(owner).is_dir():
        return []
    engines = [
        found.path.name
        for found in run_folders(folder)
        if (process := found.process()) is not None and is_alive(process)
    ]
    daemons = [
        f"the MPS daemon of {left.uuid}"
        for _, left in record.records(folder)
        if left.process is not None and is_alive(left.process)
    ]
    proxy = None if owner is None else read_identity(Path(owner) / "proxy")
    endpoint = ["the endpoint"] if proxy is not None and is_alive(proxy) else []
    return engines + daemons + endpoint


def _busy(folder: Path, what: str, owner: str) -> RunFolderBusyError:
    of = f" of the state folder {owner}" if owner else ""
    return RunFolderBusyError(
        f"the run folder {folder} {what}{of}.",
        hint="Set run_dir to a folder of its own for each state_dir, or end that daemon and its "
        "engines first (`partitiond down` with its settings).",
        facts={"path": str(folder), "state_dir": owner},
    )


def _unknown(folder: Path, what: str) -> RunFolderBusyError:
    return RunFolderBusyError(
        f"the run folder {folder} {what}, and whose it is cannot be read.",
        hint=f"Remove {folder / OWNER} if it is this state folder's; else set run_dir to another "
        "folder.",
        facts={"path": str(folder)},
    )
