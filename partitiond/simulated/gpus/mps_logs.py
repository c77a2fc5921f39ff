"""Writes control.log and server.log in NVIDIA's words, as far as public reports show them."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from partitiond.simulated.gpus.mps_state import Client, Server


class Log:
    """One log file; calling it writes a line."""

    def __init__(self, path: Path, who: str, pid: int) -> None:
        self._path = path
        self._who = who
        self._pid = pid

    def __call__(self, text: str, who: str = "") -> None:
        """Write a line, under the log's own name or another."""
        now = datetime.datetime.now().isoformat(" ", "milliseconds")
        with self._path.open("a") as file:
            file.write(f"[{now} {who or self._who:>7} {self._pid:>6}] {text}\n")

    def started(self, pipe_dir: Path, server: Server, devices: Sequence[str]) -> None:
        """Log that a server is ready."""
        self("Startup", "Other")
        self(f"Connecting to control daemon on socket: {pipe_dir / 'control'}", "Other")
        self("Initializing server process", "Other")
        for index, device in enumerate(devices):
            self(f"Creating server context on device {index} ({device})")
        self(f"Active Threads Percentage set to {server.percentage:.1f}")
        for device, limit in server.limits.items():
            self(f"Device pinned memory limit for device {device} set to {limit:#x} bytes")
        self("Server Priority set to 0")
        self("Server has started")

    def attached(self, client: Client) -> None:
        """Log that a client has its context."""
        self("Received new client request")
        self("Worker created")
        self("Creating worker thread")
        self(f"Device (uuid {client.device}) is associated")
        self(f"Status of client {{{client.pid}, {client.context_id}}} is ACTIVE")

    def inactive(self, client: Client) -> None:
        """Log that a client's work was ended."""
        self(f"Status of client {{{client.pid}, {client.context_id}}} is INACTIVE")

    def detached(self, client: Client, left: int) -> None:
        """Log that a client is gone."""
        self("Receive command failed, assuming client exit")
        self(f"Client {client.pid} disconnected. Number of active client contexts is {left}")
