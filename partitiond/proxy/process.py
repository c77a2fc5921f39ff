"""Stores the identity of a running proxy on disk, so that the next daemon can adopt it."""

import contextlib
import dataclasses
import json
import os
import socket
import struct
from pathlib import Path
from typing import Final

from partitiond.core.errors import (
    ConflictError,
    DeviceError,
    InputError,
    PartitiondError,
    SettingsError,
)
from partitiond.platform.process_identity import boot_id, is_alive, start_ticks
from partitiond.proxy.config import ProxyOptions
from partitiond.serde import from_stored_json, read_stored, to_json

_PEER: Final = struct.Struct("3i")
"""As the kernel tells who listens: pid, user, group."""

PID_FILE = "proxy.json"
LOCK_FILE = "proxy.lock"
CONTROL_SOCKET = "proxy.sock"
"""In the run folder; the other files are in the proxy's state folder."""
REFUSAL_FILE = "refusal.json"
"""Why the proxy that was started last did not serve, for the daemon that started it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyIdentity:
    """The identity of a running proxy, as stored on disk.

    Attributes:
        pid, start_ticks, boot_id: identify the process.
        host, port: the actual address that the proxy listens on.
        arguments: its start arguments, for comparison; any change needs a new process.
    """

    pid: int
    start_ticks: int
    boot_id: str
    host: str
    port: int
    control_socket: str
    arguments: str


def read_identity(state_dir: Path) -> ProxyIdentity | None:
    """Return the proxy that last ran on this state folder, alive or not; None if that cannot be
    read: then a proxy may run all the same (`listening_pid`).
    """
    with contextlib.suppress(InputError, OSError):
        return read_stored(ProxyIdentity, state_dir / PID_FILE)
    return None


def running(state_dir: Path) -> ProxyIdentity | None:
    """Return the living proxy of this very state folder, whose lock it holds: in a copy of the
    folder the identity is that of the original's. None if that cannot be read (`listening_pid`).
    """
    found = read_identity(state_dir)
    if found is None or not is_alive(found):
        return None
    return found if _has_open(found.pid, state_dir / LOCK_FILE) else None


def _has_open(pid: int, file: Path) -> bool:
    """Whether a process is known to have a file open."""
    with contextlib.suppress(OSError):
        wanted = file.stat()
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.path.samestat(one.stat(), wanted):
                    return True
    return False


def listening_pid(control_socket: Path) -> int | None:
    """Return the process that listens at a proxy's control socket, as the kernel tells, even if the
    process answers nothing; None if there is none, or as many as may do wait to be answered.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(str(control_socket))
        except OSError:
            return None
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid: int = _PEER.unpack(told)[0]
    return pid or None


def own_identity(host: str, port: int, control_socket: Path, arguments: str) -> ProxyIdentity:
    """Return the identity of this process."""
    pid = os.getpid()
    return ProxyIdentity(
        pid, start_ticks(pid) or 0, boot_id(), host, port, str(control_socket), arguments
    )


def arguments_text(host: str, port: int, options: ProxyOptions) -> str:
    """Return the start arguments of a proxy as text; see `same_arguments`."""
    return f"{host}:{port} {to_json(options)}"


def same_arguments(one: str, other: str) -> bool:
    """Whether a proxy with `one` need not be replaced by a proxy with `other`.

    An option that another release does not know counts as having its default value there, so that
    a new release alone does not replace a proxy, which would refuse connections.
    """
    address, _, options = one.partition(" ")
    other_address, _, other_options = other.partition(" ")
    try:
        return address == other_address and (
            from_stored_json(ProxyOptions, options) == from_stored_json(ProxyOptions, other_options)
        )
    except InputError:
        return False


def write_refusal(state_dir: Path, error: PartitiondError) -> None:
    """Store why this process does not serve; where that fails, its log says it alone."""
    said = {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts}
    with contextlib.suppress(OSError):
        (state_dir / REFUSAL_FILE).write_text(json.dumps(said, default=str))


def take_refusal(state_dir: Path) -> PartitiondError | None:
    """Return why a process of this state folder did not serve, and forget it; None if unknown."""
    try:
        said = json.loads((state_dir / REFUSAL_FILE).read_bytes())
        (state_dir / REFUSAL_FILE).unlink()
        known = {kind.code: kind for kind in (DeviceError, SettingsError, ConflictError)}
        kind = known.get(said["code"], PartitiondError)
        return kind(said["message"], hint=said["hint"], facts=said["facts"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
