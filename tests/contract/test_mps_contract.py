"""MPS behaves as our code relies on, simulated and real: daemon, clients, limits, ends."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import MIB
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.mps import MpsControl, MpsDaemon, without_mps_env
from partitiond.devices.nvml import used_bytes
from partitiond.platform.process_identity import start_ticks
from partitiond.simulated.gpus import SimulatedHost
from tests.machine import signal_all

REAL_PROGRAM = "nvidia-cuda-mps-control"
IDLE_BYTES = 64 * MIB
"""A GPU on which more is in use is not ours to test on."""
OUT_OF_MEMORY, CLIENT_TERMINATED = 2, 810

CUDA_PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL(sys.argv[1])
context, pointer = ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
print(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
      or cuda.cuCtxSetCurrent(context) or cuda.cuCtxSynchronize(), flush=True)
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "allocate":
        print(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(int(number))), flush=True)
    elif word == "synchronize":
        print(cuda.cuCtxSynchronize(), flush=True)
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU to test on.

    Attributes:
        program: its host's MPS control program.
        library: its host's libcuda.
    """

    uuid: str
    program: str
    library: str


class CudaProcess:
    """A CUDA program that does what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def code(self, command: str = "") -> int:
        """The CUDA error of a command; of its start without one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if command:
            self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(60):
            return int(await self._process.stdout.readline())


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest, tmp_path: Path) -> Gpu:
    if request.param == "real":
        return real_gpu()
    host = SimulatedHost.create("a100-40gb-x8", tmp_path / "host")
    return Gpu(host.uuids()[1], str(host.mps_control), str(host.cuda_path))


def real_gpu() -> Gpu:
    """One that is idle and allows MPS; skips without."""
    if shutil.which(REAL_PROGRAM) is None:
        pytest.skip(f"{REAL_PROGRAM} is not installed")
    found = [device for device in discover_gpus([0]) if SharingMode.MPS in device.modes]
    idle = [device.id for device in found if used_bytes(device.id) < IDLE_BYTES]
    if not idle:
        pytest.skip("no idle NVIDIA GPU that allows MPS")
    return Gpu(idle[0], REAL_PROGRAM, "libcuda.so.1")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as short:
        yield Path(short)


@pytest.fixture
async def daemon(gpu: Gpu, run_dir: Path) -> AsyncIterator[MpsDaemon]:
    daemon = MpsControl(run_dir, gpu.program, check_seconds=0.0).daemon(gpu.uuid)
    await daemon.ensure()
    yield daemon
    with contextlib.suppress(DeviceError):
        await daemon.quit()
    signal_all(daemon.pids())


@contextlib.asynccontextmanager
async def cuda(
    gpu: Gpu, daemon: MpsDaemon, sm_percent: int = 50, memory_bytes: int = 0
) -> AsyncIterator[CudaProcess]:
    """A client of the daemon, ended as our engines are: through the daemon, then killed."""
    async with cuda_with(gpu, dict(daemon.client_env(sm_percent, memory_bytes))) as program:
        try:
            yield program
        finally:
            with contextlib.suppress(DeviceError):
                await daemon.terminate([program.pid])


@contextlib.asynccontextmanager
async def cuda_with(gpu: Gpu, told: dict[str, str]) -> AsyncIterator[CudaProcess]:
    """A program with this in its environment, killed in the end."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.uuid, **told}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CUDA_PROGRAM,
        gpu.library,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield CudaProcess(process)
    finally:
        process.kill()
        await process.communicate()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what a driver does in its own time."""
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.05)


async def test_a_daemon_answers_and_has_no_server_before_its_first_client(
    gpu: Gpu, daemon: MpsDaemon, run_dir: Path
) -> None:
    assert daemon.alive()
    assert float(await daemon.ask("get_default_active_thread_percentage")) == 100.0
    said = await daemon.ask("no_such_command")
    assert said, "it is answered in words"
    assert not said.isdigit()
    assert await daemon.fault() == ""
    async with cuda_with(gpu, dict(without_mps_env(run_dir))) as program:
        assert await program.code() == 0, "told a folder without a daemon it runs without MPS"
        assert await daemon.clients() == ()
    assert len(daemon.pids()) == 1


async def test_a_client_keeps_to_its_limit_and_keeps_its_daemon_from_ending(
    gpu: Gpu, daemon: MpsDaemon, run_dir: Path
) -> None:
    async with cuda(gpu, daemon, 100, 2048 * MIB) as program:
        assert await program.code() == 0
        assert await program.code(f"allocate {256 * MIB}") == 0
        assert await program.code(f"allocate {4096 * MIB}") == OUT_OF_MEMORY
        assert await program.code("synchronize") == 0, "refused, not broken"
        (found,) = await daemon.clients()
        assert found.pid == program.pid
        assert await daemon.ask(f"get_server_status {found.server_pid}") == "ACTIVE"
        assert found.server_pid in daemon.pids()
        assert await daemon.fault() == ""
        (again,) = MpsControl(run_dir, gpu.program).running()
        assert (again.uuid, again.pids()) == (daemon.uuid, daemon.pids())
        assert [client.pid for client in await again.clients()] == [program.pid]
        with pytest.raises(DeviceError, match="in use"):
            await daemon.quit()

    async def ended() -> bool:
        try:
            await daemon.quit()
        except DeviceError:  # the server has not noticed yet
            return False
        return True

    pids = daemon.pids()
    await until(ended)
    assert all(start_ticks(pid) is None for pid in pids)
    assert not daemon.pipe_dir.exists()


async def test_one_client_is_ended_and_its_neighbour_goes_on(gpu: Gpu, daemon: MpsDaemon) -> None:
    async with cuda(gpu, daemon, 30) as one, cuda(gpu, daemon, 30) as two:
        assert await one.code() == 0
        assert await two.code() == 0
        assert await daemon.terminate([one.pid]) == (one.pid,)
        assert start_ticks(one.pid) is not None, "its process is left alone"
        assert await one.code("synchronize") == CLIENT_TERMINATED
        assert await two.code("synchronize") == 0
        assert await daemon.fault() == ""
