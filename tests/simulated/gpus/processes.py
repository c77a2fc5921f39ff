"""Runs processes that hold memory of a simulated GPU."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

from partitiond.simulated.gpus import SimulatedHost

# Opens a context, takes what it is told to, says so, and waits to be ended.
_HOLDER = """
import sys
from pathlib import Path
from partitiond.devices.cuda import Cuda, CudaError
try:
    cuda = Cuda(Path(sys.argv[1]))
    context = cuda.retain(0)
    if int(sys.argv[2]):
        context.allocate(int(sys.argv[2]))
except CudaError as error:
    print("error", error.cuda_code, flush=True)
    sys.exit(1)
print("holds", *context.memory(), cuda.devices()[0].uuid, flush=True)
for line in sys.stdin:
    try:
        context.synchronize()
        print("well", flush=True)
    except CudaError as error:
        print("error", error.cuda_code, flush=True)
"""


def start(
    host: SimulatedHost, device: str, size_bytes: int = 0, env: Mapping[str, str] = {}
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(host.cuda_path), str(size_bytes)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": device, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    """Its next line, as words."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def asked(process: subprocess.Popen[str]) -> list[str]:
    """What it says when it is to synchronize."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


@contextlib.contextmanager
def holding(
    host: SimulatedHost, device: str, size_bytes: int = 0, env: Mapping[str, str] = {}
) -> Iterator[subprocess.Popen[str]]:
    """A process that holds memory until the end of the block."""
    process = start(host, device, size_bytes, env)
    try:
        words = said(process)
        assert words[0] == "holds", words
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
