"""What a running proxy leaves on disk about itself, so that the next daemon adopts it."""

import dataclasses
import os
from pathlib import Path

from partitiond.core.errors import InputError
from partitiond.process_identity import boot_id, is_alive, start_ticks
from partitiond.proxy.config import ProxyOptions
from partitiond.serde import from_json, to_json

__all__ = [
    "ProxyIdentity",
    "arguments_text",
    "boot_id",
    "is_alive",
    "own_identity",
    "read_identity",
    "start_ticks",
]

PID_FILE = "proxy.json"
LOCK_FILE = "proxy.lock"


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyIdentity:
    """What a running proxy leaves on disk about itself.

    Attributes:
        pid, start_ticks, boot_id: the process.
        host, port: where it really listens.
        arguments: what it was started with, for comparing; any change needs another process.
    """

    pid: int
    start_ticks: int
    boot_id: str
    host: str
    port: int
    control_socket: str
    arguments: str


def read_identity(state_dir: Path) -> ProxyIdentity | None:
    """The proxy that last ran on this state folder, alive or not; None when unknown."""
    try:
        return from_json(ProxyIdentity, (state_dir / PID_FILE).read_bytes())
    except (FileNotFoundError, InputError):
        return None


def own_identity(host: str, port: int, control_socket: Path, arguments: str) -> ProxyIdentity:
    """This process's identity."""
    pid = os.getpid()
    return ProxyIdentity(
        pid, start_ticks(pid) or 0, boot_id(), host, port, str(control_socket), arguments
    )


def arguments_text(host: str, port: int, options: ProxyOptions) -> str:
    """What a proxy is asked to be; equal texts need no new process."""
    return f"{host}:{port} {to_json(options)}"
