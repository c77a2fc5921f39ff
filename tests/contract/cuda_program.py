"""Runs CUDA programs that do what they are told, under a simulated driver or the system's."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

_PROGRAM = """
import itertools, sys
from pathlib import Path
from partitiond.devices.cuda import Cuda, CudaError
for line in itertools.chain(["start"], sys.stdin):
    word, _, number = line.strip().partition(" ")
    try:
        said = 0
        if word == "start":
            context = Cuda(Path(sys.argv[1]) if sys.argv[1] else None).retain(0)
        elif word == "allocate":
            context.allocate(int(number))
        elif word == "memory":
            said = context.memory()[1]
        if word != "memory":
            context.synchronize()
    except CudaError as error:
        said = error.cuda_code
    print(said, flush=True)
"""


class CudaProgram:
    """A process that holds a context of the only GPU that it sees."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def code(self, command: str = "") -> int:
        """The CUDA error of "allocate N" or "synchronize", the bytes of "memory"; without a
        command, which is to be asked first, the error of its start.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if command:
            self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(60):
            return int(await self._process.stdout.readline())


@contextlib.asynccontextmanager
async def cuda_program(
    device: str, library: Path | None, env: Mapping[str, str] = {}
) -> AsyncIterator[CudaProgram]:
    """A program on a device, with this in its environment; killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, str(library or ""),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": device, **env},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        yield CudaProgram(process)
    finally:
        process.kill()
        await process.communicate()
