"""Ties a run folder to one state folder, whose daemon adopts and ends the folder's processes.

Two daemons on one run folder would each find the other's engines, endpoint and MPS daemons, and end
those that its own plan does not want. So the folder is locked while a daemon or a profile uses it,
and it names its owner: only the owner's next daemon adopts processes that a killed daemon left.

A state folder may be put back from a backup, and then holds a head that was overtaken since. So the
folder also names the start of the control plane whose processes run there, and obeys as the agents
of other hosts do (`hosts.calls.fencing`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond import serde
from partitiond.core.errors import ConflictError, FencedError, InputError, StoreError
from partitiond.devices.mps import record
from partitiond.engines.process.journal import run_folders
from partitiond.engines.process.signals import PROC
from partitiond.hosts.calls.fencing import HeadSession, Obedience, obedience, other_words
from partitiond.platform.durable_file import write_durably
from partitiond.platform.process_identity import is_alive
from partitiond.proxy.process import CONTROL_SOCKET, listening_pid, running
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
        head, epoch, start, session: of that daemon, as `HeadSession` has them; those of NO_HEAD if
            it was never the head of other hosts, or if an agent used the folder, which keeps whom
            it obeys in its state folder. No start is known of a release before.
    """

    state_dir: str
    head: str = ""
    epoch: int = 0
    start: int = 0
    session: str = ""

    @property
    def obeyed(self) -> HeadSession:
        """The daemon whose processes run there."""
        return HeadSession(self.head, self.epoch, self.start, self.session)


class OwnedRunFolder:
    """A run folder that is held for a state folder.

    Attributes:
        owner: as it is recorded.
    """

    def __init__(self, folder: Path, owner: RunFolderOwner) -> None:
        self._folder = folder
        self.owner = owner

    def claim(self, head: HeadSession) -> None:
        """Use the folder for a daemon, which adopts and ends from now on what runs there.

        Raises:
            FencedError: processes run there of a daemon that this one is refused for.
        """
        was, now = self.owner, RunFolderOwner(self.owner.state_dir, *dataclasses.astuple(head))
        refuses = obedience(was.obeyed, head) is Obedience.REFUSE
        running = what_runs(self._folder, was.state_dir) if refuses else []
        if running:
            raise FencedError(
                f"the run folder {self._folder} has {', '.join(running)} running of "
                f"{other_words(was.obeyed, head)}; this one has epoch {head.epoch}.",
                hint="What runs there goes on. If this control plane is to be the head, as after "
                "the restore of a backup: `partitiond hosts --take-over`, then start it again.",
                facts={"path": str(self._folder), "head": was.head, "epoch": was.epoch},
            )
        if now != was:
            _write(self._folder, now)
            self.owner = now


@contextlib.contextmanager
def owned_run_folder(settings: Settings) -> Iterator[OwnedRunFolder]:
    """Hold the run folder for this state folder. The caller holds the state folder's lock.

    A control plane claims what it returns, before it adopts anything.

    Raises:
        RunFolderBusyError: a daemon of another state folder uses it, or left processes there that
            only that daemon may adopt; or processes run there whose owner cannot be read.
        StoreError: the folder cannot be written or cannot be locked.
    """
    folder, mine = settings.run_dir, str(settings.state_dir.resolve())
    try:
        lock = StateLock.acquire(folder / LOCK)
    except StateFolderBusyError as error:
        owner = _owner(folder)
        user = f"is in use by process {error.facts['pid']}"
        raise _busy(folder, user, owner.state_dir if owner is not None else "") from error
    with lock:
        owner = _owner(folder)
        other = None if owner is None else owner.state_dir
        running = [] if other in ("", mine) else what_runs(folder, other)
        if running:
            what = f"has {', '.join(running)} running"
            raise _unknown(folder, what) if other is None else _busy(folder, what, other)
        if owner is None or other != mine:
            owner = RunFolderOwner(mine)
            _write(folder, owner)
        yield OwnedRunFolder(folder, owner)


def _owner(folder: Path) -> RunFolderOwner | None:
    """The owner; with an empty state folder if there is none, None if it cannot be read."""
    try:
        return serde.read_stored(RunFolderOwner, folder / OWNER) or RunFolderOwner("")
    except InputError:
        return None


def _write(folder: Path, owner: RunFolderOwner) -> None:
    try:
        write_durably(folder / OWNER, serde.to_stored_json(owner).encode())
    except OSError as error:
        raise StoreError(
            f"the run folder {folder} cannot be written: {error.strerror}.",
            hint="Make it writable for this user, with some room on its disk.",
            facts={"path": str(folder)},
        ) from error


def what_runs(folder: Path, owner: str | None) -> list[str]:
    """Names of living engines, MPS daemons and endpoint of the run folder and of its owner, a state
    folder (None: the owner is not known); nothing if the owner's folder is gone."""
    if owner is not None and not Path(owner).is_dir():
        return []
    handles = PROC.ask(f"/proc for {folder}", lambda: [f.handle() for f in run_folders(folder)])
    engines = [Path(one.run_dir).name for one in handles if one is not None and is_alive(one)]
    daemons = [
        f"the MPS daemon of {left.uuid}"
        for _, left in record.records(folder)
        if left.process is not None and is_alive(left.process)
    ]
    serves = owner is not None and running(Path(owner) / "proxy") is not None
    serves = serves or listening_pid(folder / CONTROL_SOCKET) is not None
    return engines + daemons + ["the endpoint"] * serves


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
