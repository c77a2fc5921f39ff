"""A host's partitions keep the contract, on a simulated GPU and on a real one if there is one.

The engines are small programs that take memory through CUDA's driver, as engines do.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, StartFailedError
from partitiond.core.hardware.partition import (
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.mig import MigControl
from partitiond.devices.mps import MpsControl, without_mps_env
from partitiond.devices.nvml import used_bytes
from partitiond.devices.partitions import DeviceJournal, HostPartitions
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.devices.partitions.journal import read_entries
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.devices.partitions.world import handle, launch

IDLE_BYTES = 64 * MIB
"""A GPU on which more is in use is not ours to test on."""
UNDONE_SECONDS = 300.0
"""For what a crash left over to be undone: longer than any slow machine takes."""
REPORT = EngineReport(0, "1", {})
MIG_VARIABLE = "PARTITIOND_TEST_MIG"
"""Set, a real GPU's MIG geometry may be changed by these tests; its MIG mode has to be on."""

ENGINE = """
import json, sys
from pathlib import Path
from partitiond.devices.cuda import Cuda, CudaError
wanted, library = json.loads(sys.argv[1])
try:
    context = Cuda(Path(library) if library else None).retain(0)
    context.allocate(wanted)
    print("ready", *context.memory(), flush=True)
except CudaError as error:
    print("refused", error.cuda_code, 0, flush=True)
sys.stdin.read()
"""


@dataclasses.dataclass
class Host:
    """A host with a GPU, and our partitions on it."""

    folder: Path
    uuid: str
    total_bytes: int
    program: str
    library: Path | None
    mig: bool
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
    async def engine(self, prepared: EngineLaunch, size: int) -> AsyncIterator[list[str]]:
        """A program in the partition that takes so much; what it says."""
        env = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": prepared.visible_device}
        argument = json.dumps([size, str(self.library or "")])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ENGINE, argument,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=env | dict(prepared.extra_env), cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.living[process.pid] = prepared.replica_id
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                yield (await process.stdout.readline()).decode().split()
        finally:
            process.kill()
            await process.communicate()
            del self.living[process.pid]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it."""
    found = Path(tempfile.mkdtemp(prefix="pc-"))
    (found / "r").mkdir()
    yield found
    shutil.rmtree(found, ignore_errors=True)


def real_gpu() -> tuple[str, int, bool]:
    """An idle GPU of this host."""
    for gpu in discover_gpus(sorted(os.sched_getaffinity(0))):
        if used_bytes(gpu.id) <= IDLE_BYTES:
            return gpu.id, gpu.memory_bytes, [mode.value for mode in gpu.modes] == ["mig"]
    pytest.skip("no idle NVIDIA GPU here")


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def host(request: pytest.FixtureRequest, folder: Path) -> Iterator[Host]:
    mig = bool(getattr(request.function, "mig", False))
    if request.param == "real":
        uuid, total, on = real_gpu()
        if mig != on or (mig and MIG_VARIABLE not in os.environ):
            pytest.skip("this GPU's MIG mode is not the one of this test")
        yield Host(folder, uuid, total, "nvidia-cuda-mps-control", None, on)
        return
    description = HostDescription("contract", (GpuDescription("a100-80gb", 1, mig=mig),))
    simulated = SimulatedHost.create(description, folder / "h")
    with simulated.installed():
        uuid = simulated.uuids()[0]
        (gpu,) = discover_gpus((0,))
        program, library = str(simulated.mps_control), simulated.cuda_path
        yield Host(folder, uuid, gpu.memory_bytes, program, library, mig)
        assert not simulated.processes(uuid)
        assert simulated.geometry(uuid) == ()
        assert simulated.mig_mode(uuid) is mig


def needs_mig(test: object) -> object:
    """Run on a GPU with MIG on."""
    test.mig = True  # type: ignore[attr-defined]
    return test


def share(host: Host, gib: int) -> MemoryShare:
    return MemoryShare(host.uuid, Bytes(gib * GIB))


async def test_an_engine_within_its_share_stays_and_one_beyond_does_not(host: Host) -> None:
    here = host.partitions()
    prepared = await here.prepare(launch("a-1", share(host, 3)))
    started: EngineHandle = handle(prepared)
    async with host.engine(prepared, GIB) as said:
        assert said[0] == "ready"
        await here.verify(started, REPORT)
    async with host.engine(prepared, 5 * GIB) as said:
        assert said[0] == "ready"
        with pytest.raises(StartFailedError, match="more than its partition"):
            await here.verify(started, REPORT)
    await here.release(prepared)


async def test_what_is_promised_to_one_is_not_given_to_another(host: Host) -> None:
    here = host.partitions()
    most = host.total_bytes // GIB - 4
    prepared = await here.prepare(launch("a-1", share(host, most)))
    async with host.engine(prepared, GIB):
        with pytest.raises(DeviceError, match="promised"):
            await here.prepare(launch("b-1", share(host, 8)))
    await here.release(prepared)
    await here.release(await here.prepare(launch("b-1", share(host, 8))))


async def test_a_whole_device_is_an_empty_one(host: Host) -> None:
    here = host.partitions()
    first = await here.prepare(launch("a-1", share(host, 4)))
    whole = launch("b-1", WholeDevice(host.uuid, Bytes(4 * GIB)))
    async with host.engine(first, GIB):
        await here.release(first)  # as if it had been forgotten: it is on the device all the same
        with pytest.raises(DeviceError, match="as a whole"):
            await here.prepare(whole)
    await here.release(await here.prepare(whole))


async def test_an_mps_share_has_its_own_daemon_and_a_limit(host: Host) -> None:
    here = host.partitions()
    partition: Partition = MpsShare(host.uuid, Bytes(3 * GIB), 30)
    prepared = await here.prepare(launch("a-1", partition))
    started = handle(prepared)
    async with host.engine(prepared, GIB) as said:
        assert said[0] == "ready"
        await here.verify(started, REPORT)
        await here.before_stop(started)
    async with host.engine(prepared, 6 * GIB) as said:
        assert said[:2] == ["refused", "2"]
    outside = dataclasses.replace(prepared, extra_env=without_mps_env(host.folder / "r"))
    async with host.engine(outside, GIB) as said:
        assert said[0] == "ready"  # it found no MPS daemon, runs, and says nothing
        with pytest.raises(StartFailedError, match="runs without its 30 % cap"):
            await here.verify(started, REPORT)
    assert len(here.own_pids()) >= 1
    await here.release(prepared)
    assert list(here.own_pids()) == []
    assert read_entries(host.journal) == ()


async def test_after_a_crash_living_engines_keep_theirs_and_the_rest_goes(host: Host) -> None:
    prepared = await host.partitions().prepare(
        launch("a-1", MpsShare(host.uuid, Bytes(3 * GIB), 30))
    )
    here = host.partitions()
    await here.settle([handle(prepared)])
    assert len(here.own_pids()) >= 1
    here = host.partitions()
    assert any("MPS daemon" in sentence for sentence in await here.settle([]))
    assert list(here.own_pids()) == []
    assert read_entries(host.journal) == ()


@needs_mig
async def test_a_mig_slice_is_made_used_and_destroyed(host: Host) -> None:
    here = host.partitions()
    name = "1g.10gb" if host.library is not None else os.environ[MIG_VARIABLE]
    partition = MigSlice(host.uuid, Bytes(4 * GIB), name, 2, 1)
    prepared = await here.prepare(launch("a-1", partition))
    assert prepared.visible_device.startswith("MIG-")
    async with host.engine(prepared, GIB) as said:
        assert said[0] == "ready"
        assert int(said[2]) <= prepared.device_memory_bytes < host.total_bytes
        with pytest.raises(DeviceError):
            await here.release(prepared)  # in use: it stays journalled
    assert [entry.users for entry in read_entries(host.journal)] == [()]
    assert list(await here.clear()) == []
    assert read_entries(host.journal) == ()
