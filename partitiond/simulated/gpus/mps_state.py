"""Holds the state of a simulated MPS control daemon: its servers, their clients and limits."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Final

CLIENT_LIMIT: Final = 48
"""Client contexts of one server, from Volta to CUDA 13.0."""

NO_DEVICE: Final = 100
INVALID_VALUE: Final = 1
SERVER_NOT_READY: Final = 807
MAX_CLIENTS_REACHED: Final = 808
CLIENT_TERMINATED: Final = 810
"""CUDA errors, as cuda.h numbers them: CUDA_ERROR_MPS_SERVER_NOT_READY and so on."""

CHUNKS: Final = 8
"""Static SM partitions: chunks of one simulated GPU."""


@dataclasses.dataclass(slots=True, eq=False)
class Client:
    """One client context, which is one connection.

    Attributes:
        percentage: effective share of the SMs, in percent.
        limit_bytes: effective limit of the client's device memory; -1 for none.
        send: sends a line to the client.
    """

    pid: int
    context_id: int
    uid: int
    device: str
    percentage: float
    limit_bytes: int
    send: Callable[[str], None]
    terminated: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Server:
    """One server, for one user.

    Attributes:
        status: INITIALIZING, ACTIVE or FAULT.
        percentage: SM share of the server's clients, unless they ask for less.
        limits: memory limit by device, in bytes.
    """

    pid: int
    uid: int
    percentage: float
    limits: dict[str, int]
    status: str = "ACTIVE"
    clients: list[Client] = dataclasses.field(default_factory=list)
    contexts: int = 0

    def active(self) -> list[Client]:
        """Return clients whose work was not ended."""
        return [client for client in self.clients if not client.terminated]


@dataclasses.dataclass(slots=True)
class MpsState:
    """State of one control daemon.

    Attributes:
        devices: UUIDs that the daemon is limited to; empty for all.
        static: whether static SM partitioning is on (-S).
        partitions: chunks by partition.
        kill_faults: whether a client that ends without terminate_client breaks its server, as a
            real client may when it dies inside a kernel.
        quitting: whether the daemon is shutting down and takes no new clients.
    """

    devices: tuple[str, ...]
    static: bool = False
    percentage: float = 100.0
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    servers: dict[int, Server] = dataclasses.field(default_factory=dict)
    partitions: dict[str, int] = dataclasses.field(default_factory=dict)
    kill_faults: bool = False
    refuse_terminate: str = ""
    quitting: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ClientRequest:
    """What a client asks for when it connects.

    Attributes:
        percentage: -1 if the client named none.
        limit_bytes: -1 if the client named none.
    """

    pid: int
    percentage: float
    limit_bytes: int
    device: str


def parse_client(line: str) -> ClientRequest | None:
    """Parse `CLIENT <pid> <percentage or -1> <limit in bytes or -1> <device uuid>`; else None."""
    words = line.split()
    if len(words) != 5 or words[0] != "CLIENT":
        return None
    try:
        asked = ClientRequest(int(words[1]), float(words[2]), int(words[3]), words[4])
    except ValueError:
        return None
    return asked if math.isfinite(asked.percentage) else None


def parse_size(word: str) -> int | None:
    """Parse "10G" or "900M" to bytes; return None for other words."""
    found = re.fullmatch(r"(\d+)([GM])", word)
    if found is None:
        return None
    return int(found[1]) << (30 if found[2] == "G" else 20)


def refusal(
    state: MpsState, server: Server | None, asked: ClientRequest, uid: int
) -> tuple[int, str] | None:
    """Return the CUDA error that a refused client gets, and words; None if it is admitted."""
    if not any(asked.device.startswith(device) for device in state.devices or ("",)):
        return NO_DEVICE, "the device is not visible to this MPS control daemon"
    if state.quitting:
        return SERVER_NOT_READY, "the MPS control daemon is shutting down"
    if server is None:
        return None
    if server.uid != uid and server.clients:
        return SERVER_NOT_READY, f"the MPS server serves user {server.uid}"
    if server.status != "ACTIVE":
        return SERVER_NOT_READY, f"the MPS server is in state {server.status}"
    if len(server.active()) >= CLIENT_LIMIT:
        return MAX_CLIENTS_REACHED, "the MPS server has its most clients"
    return None


def effective(server: Server, asked: ClientRequest) -> tuple[float, int]:
    """Return percentage and limit (bytes or -1): a client can only tighten its server's limits."""
    percentage = server.percentage
    if 0 < asked.percentage <= 100:
        percentage = min(percentage, asked.percentage)
    # The limit that was set last takes effect, by index or by UUID.
    known = [limit for device, limit in server.limits.items() if device in ("0", asked.device)]
    limits = [limit for limit in (*known[-1:], asked.limit_bytes) if limit >= 0]
    return percentage, min(limits, default=-1)
