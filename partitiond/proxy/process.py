"""Who a process is: pid, start time and boot, which together no other process ever has."""

import dataclasses
import os
from pathlib import Path

from partitiond.core.errors import InputError
from partitiond.proxy.config import ProxyOptions
from partitiond.serde import from_json, to_json

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


def boot_id() -> str:
    """Identifies this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none.

    Field 22 of /proc/PID/stat (proc(5)), counted after the command's last parenthesis because the
    command may contain spaces. A zombie counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(identity: ProxyIdentity) -> bool:
    """Whether exactly that process still runs."""
    return identity.boot_id == boot_id() and start_ticks(identity.pid) == identity.start_ticks


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
