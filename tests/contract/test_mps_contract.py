"""MPS behaves as our code relies on, simulated and real: daemon, clients, limits, ends."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import MIB
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.mps import MpsControl, MpsDaemon, without_mps_env
from partitiond.devices.nvml import used_bytes
from partitiond.platform.process_identity import start_ticks
from partitiond.simulated.gpus import SimulatedHost
from tests.contract.cuda_program import CudaProgram, cuda_program
from tests.engine_fixtures import short_dir
from tests.machine import signal_all, until

__all__ = ["short_dir"]

REAL_PROGRAM = "nvidia-cuda-mps-control"
IDLE_BYTES = 64 * MIB
"""A GPU on which more is in use is not ours to test on."""
OUT_OF_MEMORY, CLIENT_TERMINATED = 2, 810


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
    gpus = [seen.device for seen in GpuDiscovery().discover([0])]
    found = [gpu for gpu in gpus if SharingMode.MPS in gpu.modes]
    idle = [device.id for device in found if used_bytes(device.id) < IDLE_BYTES]
    if not idle:
        pytest.skip("no idle NVIDIA GPU that allows MPS")
    return Gpu(idle[0], REAL_PROGRAM, "libcuda.so.1")


@pytest.fixture
async def daemon(gpu: Gpu, short_dir: Path) -> AsyncIterator[MpsDaemon]:
    daemon = MpsControl(short_dir, gpu.program, check_seconds=0.0).daemon(gpu.uuid)
    await daemon.ensure()
    yield daemon
    with contextlib.suppress(DeviceError):
        await daemon.quit()
    signal_all(daemon.pids())


@contextlib.asynccontextmanager
async def cuda(
    gpu: Gpu, daemon: MpsDaemon, sm_percent: int, memory_bytes: int = 0
) -> AsyncIterator[CudaProgram]:
    """A client of the daemon, ended as our engines are: through the daemon, then killed."""
    told = dict(daemon.client_env(sm_percent, memory_bytes))
    async with cuda_program(gpu.uuid, Path(gpu.library), told) as program:
        try:
            yield program
        finally:
            with contextlib.suppress(DeviceError):
                await daemon.terminate([program.pid])


async def test_a_daemon_answers_and_its_clients_keep_to_their_limits_and_are_ended_one_by_one(
    gpu: Gpu, daemon: MpsDaemon, short_dir: Path
) -> None:
    assert daemon.process()
    assert float(await daemon.ask("get_default_active_thread_percentage")) == 100.0
    said = await daemon.ask("no_such_command")
    assert said, "it is answered in words"
    assert not said.isdigit()
    outside = dict(without_mps_env(short_dir))
    async with cuda_program(gpu.uuid, Path(gpu.library), outside) as program:
        assert await program.code() == 0, "told a folder without a daemon it runs without MPS"
        assert await daemon.clients() == ()
    assert len(daemon.pids()) == 1, "no server before the first client"
    async with cuda(gpu, daemon, 60, 2048 * MIB) as one, cuda(gpu, daemon, 30) as two:
        assert await one.code() == 0
        assert await one.code(f"allocate {256 * MIB}") == 0
        assert await one.code(f"allocate {4096 * MIB}") == OUT_OF_MEMORY
        assert await one.code("synchronize") == 0, "refused, not broken"
        assert await two.code() == 0
        found = await daemon.clients()
        assert {client.pid for client in found} == {one.pid, two.pid}
        assert await daemon.ask(f"get_server_status {found[0].server_pid}") == "ACTIVE"
        assert found[0].server_pid in daemon.pids()
        assert await daemon.fault() == ""
        (again,) = MpsControl(short_dir, gpu.program).own_daemons()
        assert (again.uuid, again.pids()) == (daemon.uuid, daemon.pids())
        assert await again.clients() == found
        assert await daemon.terminate([one.pid]) == (one.pid,)
        assert start_ticks(one.pid) is not None, "its process is left alone"
        assert await one.code("synchronize") == CLIENT_TERMINATED
        assert await two.code("synchronize") == 0
        assert await daemon.fault() == ""
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
