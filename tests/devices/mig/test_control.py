"""GPU instances are made and removed on a simulated host, by its driver's rules."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig.changes import DestroyComputeInstance, MigChanges
from partitiond.core.mig.geometry import Place, place_of
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.devices.mig import MigControl, read_state
from partitiond.devices.mig.instances import perform
from partitiond.simulated.gpus import GpuDescription, HostDescription, KillPoint, SimulatedHost

NOWHERE = Path("/nonexistent/helper.sock")


def control(changes: MigChanges = "instances", own: tuple[int, ...] = ()) -> MigControl:
    return MigControl(changes, NOWHERE, lambda: own)


@contextlib.contextmanager
def one(tmp_path: Path, gpu: GpuDescription) -> Iterator[tuple[SimulatedHost, str]]:
    """A host with this GPU alone."""
    made = SimulatedHost.create(HostDescription("one", (gpu,)), tmp_path / "host")
    with made.installed() as host:
        yield host, host.uuids()[0]


def cut(uuid: str, place: Place) -> MigSlice:
    return MigSlice(uuid, Bytes(GIB), *place)


def places(host: SimulatedHost, uuid: str) -> list[Place]:
    return [place_of(i) for i in host.geometry(uuid)]


CUT: list[Place] = [
    ("2g.20gb", 0, 2), ("1g.10gb", 2, 1), ("1g.10gb", 3, 1), ("3g.40gb", 4, 4),
]  # fmt: skip
"""What the first GPU of the shipped description holds."""
PAIR: Place = ("2g.20gb", 2, 2)
"""In the place of two of them."""


async def test_instances_are_made_where_they_are_planned_and_used_as_they_are(
    host: SimulatedHost,
) -> None:
    first, empty = host.uuids()
    made = await control().ensure(cut(empty, ("2g.20gb", 4, 2)))
    assert place_of(made) == ("2g.20gb", 4, 2)
    assert made.uuid.startswith("MIG-")
    assert made.memory_bytes == 19968 * MIB
    assert host.geometry(empty) == await control().instances(empty) == (made,)
    before = host.geometry(first)
    for change in ("nvml*Create*", "nvml*Destroy"):
        host.fail(change, pynvml.NVML_ERROR_UNKNOWN, times=-1)
    assert await control("never").ensure(cut(first, CUT[3])) in before
    assert host.geometry(first) == before
    host.heal()
    for _ in range(2):  # destroying is done once, and again
        await control("never").destroy(first, CUT[3])
        assert places(host, first) == CUT[:3]
    host.reboot()
    assert host.geometry(first) == ()
    for place in CUT:
        await control().ensure(cut(first, place))
    assert places(host, first) == CUT


async def test_room_is_made_by_destroying_what_is_ours_and_idle(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    wanted, ours = cut(first, PAIR), CUT[1:3]
    with pytest.raises(DeviceError, match="made by others") as refused:
        await control().ensure(wanted, ours=ours[:1])
    assert "nvidia-smi" in refused.value.hint
    busy = next(i for i in host.geometry(first) if i.slice_start == 2)
    host.add_process(busy.uuid, os.getpid(), GIB)
    with pytest.raises(DeviceError, match=f"process {os.getpid()} runs in 1g.10gb@2"):
        await control().ensure(cut(first, CUT[1]))
    with pytest.raises(DeviceError, match="a process runs in"):
        await control().destroy(first, CUT[1])
    assert places(host, first) == CUT
    # Of an engine of ours it is no hindrance: it is adopted.
    own = control(own=(os.getpid(),))
    assert (await own.ensure(cut(first, CUT[1]))).uuid == busy.uuid
    assert [i.busy for i in await own.instances(first)] == [False] * 4
    assert [i.busy for i in await control().instances(first)] == [False, True, False, False]
    host.remove_process(busy.uuid, os.getpid())
    await control().ensure(wanted, ours=ours)
    assert places(host, first) == [CUT[0], PAIR, CUT[3]]
    # What is half made is told, and completed where it is ours.
    perform(first, DestroyComputeInstance(PAIR))
    with pytest.raises(DeviceError, match="has no compute instance"):
        await control().ensure(wanted)
    assert (await control().ensure(wanted, ours=[PAIR])).uuid


@pytest.mark.parametrize(
    ("code", "every"),
    [
        (pynvml.NVML_ERROR_UNKNOWN, 12),
        pytest.param(pynvml.NVML_ERROR_UNKNOWN, 1, marks=pytest.mark.soak),
        pytest.param(pynvml.NVML_ERROR_IN_USE, 1, marks=pytest.mark.soak),
    ],
)
async def test_a_failure_at_any_call_leaves_nothing_half_made(
    host: SimulatedHost, code: int, every: int
) -> None:
    first, ours, failures = host.uuids()[0], CUT[1:3], 0
    for after in range(0, 400, every):
        host.fail("mig", code, uuid=first, after=after)
        try:
            made = await control().ensure(cut(first, PAIR), ours=ours)
        except DeviceError:
            failures += 1
        else:
            assert place_of(made) in places(host, first)
        untouched = host._records.number("fault", 0, "seen") <= after
        host.heal()
        state = read_state(first)
        assert all(i.compute_instances for i in state.instances if i.place not in ours)
        assert {CUT[0], CUT[3]} <= {i.place for i in state.instances}
        made = await control().ensure(cut(first, PAIR), ours=ours)
        assert host.geometry(first)[1] == made
        await control().destroy(first, PAIR)
        for place in ours:
            await control().ensure(cut(first, place))
        if untouched:
            break
    assert failures > 30 / every


MAKE = """
import asyncio, sys
from pathlib import Path
from partitiond.core.hardware.partition import MigSlice
from partitiond.devices.mig import MigControl
from partitiond.devices.nvml import use_library
use_library(Path(sys.argv[1]))
wanted = MigSlice(sys.argv[2], 1, "2g.20gb", 2, 2)
ours = [("1g.10gb", 2, 1), ("1g.10gb", 3, 1)]
asyncio.run(MigControl("instances", Path("/nonexistent")).ensure(wanted, ours))
"""


CREATED, PLACED = "nvmlGpuInstanceCreateComputeInstance", "nvmlDeviceCreateGpuInstanceWithPlacement"
BEFORE, AFTER = KillPoint.BEFORE, KillPoint.AFTER
CRASHES = (
    ("nvmlComputeInstanceDestroy", BEFORE, True),
    ("nvmlComputeInstanceDestroy", AFTER, False),
    ("nvmlGpuInstanceDestroy", BEFORE, False),
    ("nvmlGpuInstanceDestroy", AFTER, True),
    (PLACED, BEFORE, True),
    (CREATED, BEFORE, False),
    (CREATED, AFTER, True),
)


@pytest.mark.parametrize(
    ("function", "when", "still_wanted"),
    [
        (PLACED, AFTER, True),
        (PLACED, AFTER, False),
        *(pytest.param(*crash, marks=pytest.mark.full) for crash in CRASHES),
    ],
)
async def test_a_crash_anywhere_is_mended(
    host: SimulatedHost, function: str, when: KillPoint, still_wanted: bool
) -> None:
    first = host.uuids()[0]
    host.fail(function, when)
    died = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAKE, str(host.nvml_path), first
    )
    assert await asyncio.wait_for(died.wait(), 60) == -9
    host.heal()
    ours = [PAIR, *CUT[1:3]]
    if still_wanted:
        assert (await control().ensure(cut(first, PAIR), ours=ours)).uuid
        assert places(host, first) == [CUT[0], PAIR, CUT[3]]
    else:
        for mine in ours:
            await control().destroy(first, mine)
        assert places(host, first) == [CUT[0], CUT[3]]
    assert all(i.whole for i in read_state(first).instances)


async def test_nothing_is_made_where_mig_is_off_or_waits_for_a_reset(tmp_path: Path) -> None:
    with one(tmp_path, GpuDescription("a100-80gb")) as (host, uuid):
        assert await control().instances(uuid) == ()
        with pytest.raises(DeviceError, match="MIG is off") as refused:
            await control().ensure(cut(uuid, CUT[0]))
        assert "-mig 1" in refused.value.hint
        with host._records.locked():
            host._records.set("gpu", 0, {"mig_pending": True})
        with pytest.raises(DeviceError, match="next reset") as refused:
            await control().ensure(cut(uuid, CUT[0]))
        assert "--gpu-reset" in refused.value.hint
        # Sizes of a driver that lists none with MIG off are the catalog's.
        host.fail("nvmlDeviceGetGpuInstanceProfileInfo*", pynvml.NVML_ERROR_NOT_SUPPORTED, times=-1)
        assert {p.name for p in read_state(uuid).profiles} >= {"7g.80gb", "1g.10gb+me"}
        host.lose(uuid)
        with pytest.raises(DeviceError, match="GPU"):
            await control().instances(uuid)


async def test_without_the_right_what_exists_is_used_and_nothing_is_made(
    host: SimulatedHost,
) -> None:
    first, empty = host.uuids()
    true_uuids = {i.uuid for i in host.geometry(first)}
    host.privileged(False)
    seen = await control("never").instances(first)
    assert {i.uuid for i in seen} == true_uuids
    assert sorted(i.mig_profile for i in seen) == sorted(name for name, _, _ in CUT)
    for i in seen:
        assert await control("never").ensure(cut(first, place_of(i))) == i
    with pytest.raises(DeviceError, match="this user may not change MIG") as refused:
        await control().ensure(cut(empty, CUT[0]))
    assert "MIG helper" in refused.value.hint


async def test_a_gpu_without_mig_is_refused(tmp_path: Path) -> None:
    with one(tmp_path, GpuDescription("l4-24gb")) as (_, uuid):
        assert await control().instances(uuid) == ()
        with pytest.raises(DeviceError, match="the GPU has no MIG"):
            await control().ensure(cut(uuid, CUT[0]))
