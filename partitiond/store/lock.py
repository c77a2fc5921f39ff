"""Locks a state folder for one daemon; the kernel releases the lock when its holder dies."""

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import os
import time
from pathlib import Path
from typing import Final, Self

import psutil

from partitiond import serde
from partitiond.core.errors import ConflictError, InputError, StoreError

LOOKS: Final = 5
LOOK_SECONDS: Final = 0.02
"""A process that only checks the lock holds it for microseconds itself."""

DYING_SECONDS: Final = 30.0
"""A killed holder's threads that still end, and its children before their exec, hold it on."""


class StateFolderBusyError(ConflictError):
    """Another daemon uses this state folder."""


@dataclasses.dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds (or last held) the lock.

    Attributes:
        started: Unix seconds at which the process started; tells the holder from a recycled pid.
    """

    pid: int
    started: float


class StateLock:
    """The lock on a state folder, held until `release` or the end of the process.

    The file stays when the lock is released; the kernel's lock on it counts, not its existence. Its
    descriptor is closed on exec, so engines do not inherit the lock.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock.

        A killed holder is waited for: the kernel releases the lock once the holder's last thread is
        gone, and any child of the holder that has not reached its exec.

        Raises:
            StateFolderBusyError: a living process holds it; the message names its pid.
            StoreError: the folder cannot be written or has no locks.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _flock(descriptor, path)
            own = LockHolder(os.getpid(), psutil.Process().create_time())
            text = serde.to_stored_json(own).encode()
            os.pwrite(descriptor, text, 0)  # in the place of the former, even on a full disk
            os.ftruncate(descriptor, len(text))
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _busy(path) from error
            raise _unusable(path, error) from error
        return cls(path, descriptor)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _flock(descriptor: int, path: Path) -> None:
    """Take the lock, allowing for a mere check (`lock_holder`) or the rest of a dead holder.

    Raises:
        BlockingIOError: a living process holds the lock.
    """
    deadline = time.monotonic() + DYING_SECONDS
    for look in itertools.count(1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if look > LOOKS and (time.monotonic() > deadline or not _is_dead(_written_holder(path))):
            break
        time.sleep(LOOK_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_dead(holder: LockHolder | None) -> bool:
    """Return whether the holder was killed. None, a holder that is not yet written, counts as
    alive.
    """
    if holder is None:
        return False
    try:
        process = psutil.Process(holder.pid)
        return process.create_time() != holder.started or process.status() in (
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
    except psutil.NoSuchProcess:
        return True


def lock_holder(path: Path) -> LockHolder | None:
    """Return the process that holds the lock now, or None. Neither takes nor leaves anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_holder(path)
    finally:
        os.close(descriptor)
    return None


def _written_holder(path: Path) -> LockHolder | None:
    with contextlib.suppress(InputError, OSError):  # being written just now
        return serde.read_stored(LockHolder, path)
    return None


def _busy(path: Path) -> StateFolderBusyError:
    holder = _written_holder(path)
    who = f"process {holder.pid}" if holder else "another process"
    return StateFolderBusyError(
        f"the state folder {path.parent} is in use by {who}.",
        hint="Stop that daemon first, or give this one another state_dir.",
        facts={"path": str(path), "pid": holder.pid if holder else None},
    )


def _unusable(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        f"the lock {path} cannot be taken: {error.strerror}.",
        hint="Free some space on that disk and try again."
        if full
        else "Make the state folder writable for this user, on a local disk.",
        facts={"path": str(path)},
    )
