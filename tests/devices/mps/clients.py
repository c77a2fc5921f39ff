"""Runs MPS daemons of a test, and programs under them: the client's side of the line protocol."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from partitiond.devices.mps import MpsControl, MpsDaemon
from partitiond.engines.process.kept_programs import KeptPrograms

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"
OTHER = "GPU-77aa1b2d-0000-0000-0000-000000000002"

PROGRAM = """
import os, socket, sys
pipe, percentage, limit, device = sys.argv[1:5]
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.path.join(pipe, "control.sock"))
connection.sendall(f"CLIENT {os.getpid()} {percentage} {limit} {device}\\n".encode())
for line in connection.makefile():
    print(line, end="", flush=True)
"""


class Client:
    """A process that holds one context until it is closed or killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def line(self) -> str:
        """The next line the daemon sends it; empty once the connection is gone."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def kill(self) -> None:
        """Die at once, as by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def client(
    env: Mapping[str, str], device: str, percentage: str | None = None, limit: str = "-1"
) -> AsyncIterator[Client]:
    """A client with this environment; it is gone when the block ends."""
    percentage = percentage or env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "-1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", PROGRAM, env["CUDA_MPS_PIPE_DIRECTORY"], percentage, limit,
        device, stdout=subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    found = Client(process)
    try:
        yield found
    finally:
        await found.kill()
        await process.communicate()  # to the end of its pipe, so that it is closed with it


def control_in(folder: Path, program: str, launcher: Path | None = None) -> MpsControl:
    """The MPS daemons of a host; with a launcher they are started as the user of engines."""
    keepers = KeptPrograms(launcher)
    return MpsControl(folder / "r", program, check_seconds=0.0, keepers=keepers)


def engine_of(
    daemon: MpsDaemon, percent: int = 50
) -> contextlib.AbstractAsyncContextManager[Client]:
    """A client of the daemon on its GPU."""
    return client(dict(daemon.client_env(percent, 0)), GPU)


async def empty(daemon: MpsDaemon) -> bool:
    """No client is left."""
    return not await daemon.clients()


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def scripted(folder: Path, script: str) -> Path:
    """A control program: with an option it is the daemon, without one it is asked."""
    path = folder / "nvidia-cuda-mps-control"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
