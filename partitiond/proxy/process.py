"""What a running proxy leaves on disk about itself, so that the next daemon adopts it."""

import dataclasses
import os
from pathlib import Path

from partitiond.core.errors import InputError
from partitiond.process_identity import boot_id, is_alive, start_ticks
from partitiond.proxy.config import ProxyOptions
from partitiond.serde import from_stored_json, to_json

__all__ = [
    "ProxyIdentity",
    "arguments_text",
    "boot_id",
    "is_alive",
    "own_identity",
    "read_identity",
    "same_arguments",
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
        return from_stored_json(ProxyIdentity, (state_dir / PID_FILE).read_bytes())
    except (FileNotFoundError, InputError):
        return None


def own_identity(host: str, port: int, control_socket: Path, arguments: str) -> ProxyIdentity:
    """This process's identity."""
    pid = os.getpid()
    return ProxyIdentity(
        pid, start_ticks(pid) or 0, boot_id(), host, port, str(control_socket), arguments
    )


def arguments_text(host: str, port: int, options: ProxyOptions) -> str:
    """What a proxy is asked to be; see `same_arguments`."""
    return f"{host}:{port} {to_json(options)}"


def same_arguments(one: str, other: str) -> bool:
    """Whether a proxy that is one need not be replaced by the other.

    An option that another release does not know counts as at its default there, so that a proxy
    is not replaced, and no connection refused, for a release alone.
    """
    address, _, options = one.partition(" ")
    other_address, _, other_options = other.partition(" ")
    try:
        return address == other_address and (
            from_stored_json(ProxyOptions, options) == from_stored_json(ProxyOptions, other_options)
        )
    except InputError:
        return False
