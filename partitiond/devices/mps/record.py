"""Manages the folder of one GPU's MPS daemon, and the record that is written there.

    <run_dir>/mps/<8 hex digits of the UUID>/daemon.json   which GPU, which process
                                             pipe/         CUDA_MPS_PIPE_DIRECTORY
                                             log/          control.log, server.log

A daemon that runs as another user has its pipes and logs elsewhere (`kept`), and here the files of
its supervisor.

The record is written without a process before the daemon is started, and completed after. If a
crash comes between, the daemon is found again by its pipe folder.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError, InputError
from partitiond.devices.mps.environment import SOCKET_PATH_LIMIT
from partitiond.devices.mps.keeper import make_folders
from partitiond.platform.durable_file import write_durably
from partitiond.platform.process_identity import ProcessId
from partitiond.serde import read_stored, to_stored_json

RECORD: Final = "daemon.json"
_LONGEST_SOCKET: Final = "pipe/control_privileged"


@dataclasses.dataclass(frozen=True, slots=True)
class MpsRecord:
    """The record of a folder's MPS daemon.

    Attributes:
        process: the daemon's process, or its supervisor's where another user runs it; None if its
            start was not completed.
        launcher: socket at which another user's was started; empty where it runs as our user.
        isolation_group: the group whose engines it serves; all where it runs as our user.
    """

    uuid: str
    process: ProcessId | None
    launcher: str = ""
    isolation_group: str = ""


def folder_of(run_dir: Path, uuid: str) -> Path:
    """Return a GPU's folder, named by the UUID's first 8 hex digits, which operators recognise.

    If another GPU has that folder already (it takes billions of GPUs, or a simulated host), the
    digits are a hash of the whole UUID.

    Raises:
        DeviceError: run_dir is too long for a Unix socket below it.
    """
    digits = re.sub(r"[^0-9a-f]", "", uuid.lower().removeprefix("gpu-").removeprefix("mig-"))
    hashed = hashlib.blake2b(uuid.encode(), digest_size=4).hexdigest()
    folder = run_dir / "mps" / (digits[:8] if len(digits) >= 8 else hashed)
    other = read(folder)
    if other is not None and other.uuid != uuid:
        folder = run_dir / "mps" / hashed
    length = len(os.fsencode(folder / _LONGEST_SOCKET))
    if length > SOCKET_PATH_LIMIT:
        raise DeviceError(
            f"The folder for MPS, {folder}, is too long: a Unix socket below it would have "
            f"{length} bytes, and may have {SOCKET_PATH_LIMIT}.",
            hint="Set run_dir to a shorter folder, as /run/partitiond.",
            facts={"folder": str(folder), "bytes": length},
        )
    return folder


def read(folder: Path) -> MpsRecord | None:
    """Return the record of a folder; None if there is none, or if it cannot be read."""
    with contextlib.suppress(InputError, OSError):
        return read_stored(MpsRecord, folder / RECORD)
    return None


def write(folder: Path, record: MpsRecord) -> None:
    """Write a record atomically, so that it survives a crash.

    Raises:
        DeviceError: the folder cannot be written.
    """
    with translate_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(folder / RECORD, to_stored_json(record, indent=1).encode())


def make(folder: Path) -> None:
    """Make fresh pipe and log folders for our user alone; the last daemon's logs stay as *.old.

    Raises:
        DeviceError: the folder cannot be written.
    """
    with translate_errors(folder):
        make_folders(str(folder / "pipe"), str(folder / "log"))


def clear(folder: Path) -> None:
    """Remove record and pipes; logs stay, since they tell why a daemon ended."""
    shutil.rmtree(folder / "pipe", ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.joinpath(RECORD).unlink()


def records(run_dir: Path) -> Iterator[tuple[Path, MpsRecord]]:
    """Yield all records below a run folder, by folder name."""
    for path in sorted(run_dir.joinpath("mps").glob(f"*/{RECORD}")):
        record = read(path.parent)
        if record is not None:
            yield path.parent, record


@contextlib.contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Translate errors of the file system to DeviceError."""
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"The folder for MPS, {folder}, cannot be written: {error.strerror}.",
            hint="Give this user write access to run_dir.",
            facts={"folder": str(folder), "errno": error.errno},
        ) from error
