"""Runs programs under a simulated MPS daemon: the client's side of its line protocol."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping

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
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        "-c",
        PROGRAM,
        env["CUDA_MPS_PIPE_DIRECTORY"],
        percentage or env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "-1"),
        limit,
        device,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    found = Client(process)
    try:
        yield found
    finally:
        await found.kill()
        await process.communicate()  # to the end of its pipe, so that it is closed with it
