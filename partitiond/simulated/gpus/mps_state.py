"""Holds the state of a simulated MPS control daemon: its servers and their clients."""

import dataclasses
import math
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


@dataclasses.dataclass(slots=True, eq=False)
class Client:
    """One client context, which is one connection.

    Attributes:
        send: sends a line to the client.
    """

    pid: int
    device: str
    send: Callable[[str], None]
    terminated: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Server:
    """One server, for one user.

    Attributes:
        status: INITIALIZING, ACTIVE or FAULT.
    """

    pid: int
    uid: int
    status: str = "ACTIVE"
    clients: list[Client] = dataclasses.field(default_factory=list)

    def active(self) -> list[Client]:
        """Return clients whose work was not ended."""
        return [client for client in self.clients if not client.terminated]


@dataclasses.dataclass(slots=True)
class MpsState:
    """State of one control daemon.

    Attributes:
        devices: UUIDs that the daemon is limited to; empty for all.
        kill_faults: whether a client that ends without terminate_client breaks its server, as a
            real client may when it dies inside a kernel.
        quitting: whether the daemon is shutting down and takes no new clients.
    """

    devices: tuple[str, ...]
    servers: dict[int, Server] = dataclasses.field(default_factory=dict)
    kill_faults: bool = False
    refuse_terminate: str = ""
    quitting: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ClientRequest:
    """What a client asks for when it connects.

    Attributes:
        percentage: share of the SMs; 100 if the client named none between 0 and 100.
        limit_bytes: limit of its device memory; -1 if the client named none.
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
        pid, percentage, limit = int(words[1]), float(words[2]), int(words[3])
    except ValueError:
        return None
    if not math.isfinite(percentage):
        return None
    return ClientRequest(pid, percentage if 0 < percentage <= 100 else 100.0, limit, words[4])


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
