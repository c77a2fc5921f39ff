"""A host's partitions keep the contract, on a simulated GPU and on a real one if there is one.

The engines are small programs that take memory through CUDA's driver, as engines do.
"""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, StartFailedError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import (
    MemoryShare,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.mig import MigControl
from partitiond.devices.mps import MpsControl, without_mps_env
from partitiond.devices.nvml import used_bytes
from partitiond.devices.partitions import DeviceJournal, HostPartitions
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.devices.partitions.journal import read_entries
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.contract.cuda_program import CudaProgram, cuda_program
from tests.devices.partitions.world import handle, launch

IDLE_BYTES = 64 * MIB
"""A GPU on which more is in use is not ours to test on."""
UNDONE_SECONDS = 300.0
"""For what a crash left over to be undone: longer than any slow machine takes."""
REPORT = EngineReport(0, "1", {})
OUT_OF_MEMORY = 2


@dataclasses.dataclass
class Host:
    """A host with a GPU, and our partitions on it."""

    folder: Path
    uuid: str
    total_bytes: int
    program: str
    library: Path | None
    living: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.folder / "devices.json"

    def partitions(self) -> HostPartitions:
        """As a daemon has them that starts now."""

        def owners() -> Mapping[int, str]:
            return self.living

        simulated = self.library is not None
        return HostPartitions(
            DeviceJournal(self.journal),
            gpus=NvmlGpus(host_pids=True if simulated else None),
            daemons=MpsControl(self.folder / "r", self.program, check_seconds=0.0),
            instances=MigControl("instances", self.folder / "none.sock", lambda: list(self.living)),
            owners=owners,
            kv_tokens=lambda _: 0,
            outside_env=without_mps_env(self.folder / "r"),
            settle_seconds=UNDONE_SECONDS,
        )

    @contextlib.asynccontextmanager
    async def engine(self, prepared: EngineLaunch) -> AsyncIterator[CudaProgram]:
        """A program in the partition."""
        async with cuda_program(
            prepared.visible_device, self.library, dict(prepared.extra_env)
        ) as program:
            self.living[program.pid] = prepared.replica_id
            assert await program.code() == 0
            yield program
            del self.living[program.pid]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it."""
    found = Path(tempfile.mkdtemp(prefix="pc-"))
    (found / "r").mkdir()
    yield found
    shutil.rmtree(found, ignore_errors=True)


def real_gpu() -> tuple[str, int]:
    """An idle GPU of this host, with MIG off."""
    for gpu in (seen.device for seen in GpuDiscovery().discover([0])):
        if used_bytes(gpu.id) <= IDLE_BYTES and gpu.modes != (SharingMode.MIG,):
            return gpu.id, gpu.memory_bytes
    pytest.skip("no idle NVIDIA GPU here")


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def host(request: pytest.FixtureRequest, folder: Path) -> Iterator[Host]:
    if request.param == "real":
        yield Host(folder, *real_gpu(), "nvidia-cuda-mps-control", None)
        return
    description = HostDescription("contract", (GpuDescription("a100-80gb"),))
    simulated = SimulatedHost.create(description, folder / "h")
    with simulated.installed():
        gpu = GpuDiscovery().discover([0])[0].device
        program, library = str(simulated.mps_control), simulated.cuda_path
        yield Host(folder, gpu.id, gpu.memory_bytes, program, library)
        assert not simulated.processes(gpu.id)


def share(host: Host, gib: int) -> MemoryShare:
    return MemoryShare(host.uuid, Bytes(gib * GIB))


async def test_an_engine_within_its_share_stays_and_what_others_have_is_not_given_to_it(
    host: Host,
) -> None:
    here, most = host.partitions(), host.total_bytes // GIB - 5
    prepared = await here.prepare(launch("a-1", share(host, 6)))
    started: EngineHandle = handle(prepared)
    whole = launch("b-1", WholeDevice(host.uuid, Bytes(4 * GIB)))
    async with host.engine(prepared) as program:
        assert await program.code(f"allocate {GIB}") == 0
        await here.verify(started, REPORT)
        with pytest.raises(DeviceError, match="promised"):
            await here.prepare(launch("b-1", share(host, most)))
        assert await program.code(f"allocate {8 * GIB}") == 0
        with pytest.raises(StartFailedError, match="more than its partition"):
            await here.verify(started, REPORT)
        await here.release(
            prepared
        )  # as if it had been forgotten: it is on the device all the same
        with pytest.raises(DeviceError, match="as a whole"):
            await here.prepare(whole)
    for free in (whole, launch("b-1", share(host, most))):
        await here.release(await here.prepare(free))


async def test_an_mps_share_has_its_own_daemon_and_a_limit(host: Host) -> None:
    here = host.partitions()
    partition: Partition = MpsShare(host.uuid, Bytes(3 * GIB), 30)
    prepared = await here.prepare(launch("a-1", partition))
    started = handle(prepared)
    async with host.engine(prepared) as program:
        assert await program.code(f"allocate {GIB}") == 0
        await here.verify(started, REPORT)
        assert await program.code(f"allocate {5 * GIB}") == OUT_OF_MEMORY
        await here.before_stop(started)
    outside = dataclasses.replace(prepared, extra_env=without_mps_env(host.folder / "r"))
    async with host.engine(outside):  # it found no MPS daemon, runs, and says nothing
        with pytest.raises(StartFailedError, match="runs without its 30 % cap"):
            await here.verify(started, REPORT)
    # After a crash living engines keep theirs, and the rest goes.
    here = host.partitions()
    await here.settle([started])
    assert len(here.own_pids()) >= 1
    here = host.partitions()
    assert any("MPS daemon" in sentence for sentence in await here.settle([]))
    assert list(here.own_pids()) == []
    assert read_entries(host.journal) == ()
