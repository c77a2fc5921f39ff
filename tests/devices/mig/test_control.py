"""GPU instances are made and removed on a simulated host, by its driver's rules."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig.changes import CreateGpuInstance, MigChanges, MigPermissions, MigTarget
from partitiond.core.mig.geometry import Place, place_of
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.devices.mig import MigControl, read_state
from partitiond.devices.mig.instances import perform
from partitiond.simulated.gpus import GpuDescription, HostDescription, KillPoint, SimulatedHost

NOWHERE = Path("/nonexistent/helper.sock")


def control(changes: MigChanges = "instances", own: tuple[int, ...] = ()) -> MigControl:
    return MigControl(changes, NOWHERE, lambda: own)


def one(tmp_path: Path, gpu: GpuDescription) -> contextlib.AbstractContextManager[SimulatedHost]:
    """A host with this GPU alone."""
    return SimulatedHost.create(HostDescription("one", (gpu,)), tmp_path / "host").installed()


def cut(uuid: str, name: str, start: int, count: int) -> MigSlice:
    return MigSlice(uuid, Bytes(GIB), name, start, count)


def places(host: SimulatedHost, uuid: str) -> list[Place]:
    return [place_of(i) for i in host.geometry(uuid)]


CUT = [("2g.20gb", 0, 2), ("1g.10gb", 2, 1), ("1g.10gb", 3, 1), ("3g.40gb", 4, 4)]
"""What the first GPU of the shipped description holds."""


async def test_an_instance_is_made_where_it_is_planned(host: SimulatedHost) -> None:
    empty = host.uuids()[1]
    made = await control().ensure(cut(empty, "2g.20gb", 4, 2))
    assert place_of(made) == ("2g.20gb", 4, 2)
    assert made.uuid.startswith("MIG-")
    assert made.memory_bytes == 19968 * MIB
    assert host.geometry(empty) == (made,)
    assert await control().instances(empty) == (made,)


async def test_an_instance_that_fits_is_used_as_it_is(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    before = host.geometry(first)
    host.fail("nvml*Create*", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    host.fail("nvml*Destroy", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    made = await control("never").ensure(cut(first, "3g.40gb", 4, 4))
    assert made in before
    assert host.geometry(first) == before


async def test_room_is_made_by_destroying_what_is_ours_and_idle(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    wanted = cut(first, "2g.20gb", 2, 2)
    with pytest.raises(DeviceError, match="made by others") as refused:
        await control().ensure(wanted, ours=[("1g.10gb", 2, 1)])
    assert "--replace" in refused.value.hint
    assert places(host, first) == CUT
    await control().ensure(wanted, ours=[("1g.10gb", 2, 1), ("1g.10gb", 3, 1)])
    assert places(host, first) == [CUT[0], ("2g.20gb", 2, 2), CUT[3]]


async def test_what_somebody_uses_is_never_destroyed(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    busy = next(i for i in host.geometry(first) if i.slice_start == 2)
    host.add_process(busy.uuid, os.getpid(), GIB)
    ours = [("1g.10gb", 2, 1), ("1g.10gb", 3, 1)]
    with pytest.raises(DeviceError, match=r"a process runs in 1g\.10gb@2"):
        await control().ensure(cut(first, "2g.20gb", 2, 2), ours=ours)
    with pytest.raises(DeviceError, match=f"process {os.getpid()} runs in 1g.10gb@2"):
        await control().ensure(cut(first, "1g.10gb", 2, 1))
    with pytest.raises(DeviceError, match="a process runs in"):
        await control().destroy(first, ("1g.10gb", 2, 1))
    assert places(host, first) == CUT
    # Of an engine of ours it is no hindrance: it is adopted.
    own = control(own=(os.getpid(),))
    assert (await own.ensure(cut(first, "1g.10gb", 2, 1))).uuid == busy.uuid
    assert [i.busy for i in await own.instances(first)] == [False] * 4
    assert [i.busy for i in await control().instances(first)] == [False, True, False, False]


async def test_destroying_is_done_once_and_again(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    for _ in range(2):
        await control("never").destroy(first, ("3g.40gb", 4, 4))
        assert places(host, first) == CUT[:3]


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
    first = host.uuids()[0]
    ours = [("1g.10gb", 2, 1), ("1g.10gb", 3, 1)]
    failures = 0
    for after in range(0, 400, every):
        host.fail("mig", code, uuid=first, after=after)
        try:
            made = await control().ensure(cut(first, "2g.20gb", 2, 2), ours=ours)
        except DeviceError:
            failures += 1
        else:
            assert place_of(made) in places(host, first)
        untouched = host._records.number("fault", 0, "seen") <= after
        host.heal()
        state = read_state(first)
        assert all(i.compute_instances for i in state.instances if i.place not in ours)
        assert {CUT[0], CUT[3]} <= {i.place for i in state.instances}
        made = await control().ensure(cut(first, "2g.20gb", 2, 2), ours=ours)
        assert host.geometry(first)[1] == made
        await control().destroy(first, ("2g.20gb", 2, 2))
        for start in (2, 3):
            await control().ensure(cut(first, "1g.10gb", start, 1))
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


@pytest.mark.parametrize(
    ("function", "when", "still_wanted"),
    [
        ("nvmlDeviceCreateGpuInstanceWithPlacement", KillPoint.AFTER, True),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", KillPoint.AFTER, False),
        *(
            pytest.param(function, when, wanted, marks=pytest.mark.full)
            for function, when, wanted in (
                ("nvmlComputeInstanceDestroy", KillPoint.BEFORE, True),
                ("nvmlComputeInstanceDestroy", KillPoint.AFTER, False),
                ("nvmlGpuInstanceDestroy", KillPoint.BEFORE, False),
                ("nvmlGpuInstanceDestroy", KillPoint.AFTER, True),
                ("nvmlDeviceCreateGpuInstanceWithPlacement", KillPoint.BEFORE, True),
                ("nvmlGpuInstanceCreateComputeInstance", KillPoint.BEFORE, False),
                ("nvmlGpuInstanceCreateComputeInstance", KillPoint.AFTER, True),
            )
        ),
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
    place = ("2g.20gb", 2, 2)
    ours = [place, ("1g.10gb", 2, 1), ("1g.10gb", 3, 1)]
    if still_wanted:
        made = await control().ensure(cut(first, *place), ours=ours)
        assert places(host, first) == [CUT[0], place, CUT[3]]
        assert made.uuid
    else:
        await control().destroy(first, place)
        for mine in ours[1:]:
            await control().destroy(first, mine)
        assert places(host, first) == [CUT[0], CUT[3]]
    assert all(i.whole for i in read_state(first).instances)


async def test_after_a_reboot_the_geometry_is_made_anew(host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.reboot()
    assert host.geometry(first) == ()
    made = await control().apply(first, MigTarget(tuple(CUT)), MigPermissions("instances"))
    assert [place_of(i) for i in made] == CUT
    assert places(host, first) == CUT


async def test_the_mode_changes_only_where_allowed_and_idle(tmp_path: Path) -> None:
    with one(tmp_path, GpuDescription("a100-80gb")) as host:
        uuid = host.uuids()[0]
        assert await control().instances(uuid) == ()
        with pytest.raises(DeviceError, match="turned on, which is not allowed") as refused:
            await control().ensure(cut(uuid, "2g.20gb", 0, 2))
        assert "nvidia-smi -i UUID -mig 1" in refused.value.hint
        host.add_process(uuid, os.getpid(), GIB)
        with pytest.raises(DeviceError, match="processes use the GPU"):
            await control("mode").ensure(cut(uuid, "2g.20gb", 0, 2))
        assert not host.mig_mode(uuid)
        host.remove_process(uuid, os.getpid())
        made = await control("mode").ensure(cut(uuid, "2g.20gb", 0, 2))
        assert host.mig_mode(uuid)
        with pytest.raises(DeviceError, match="made by others"):
            await control("mode").set_mode(uuid, on=False)
        await control("mode").destroy(uuid, place_of(made))
        await control("mode").set_mode(uuid, on=False)
        assert not host.mig_mode(uuid)
        await control("never").set_mode(uuid, on=False)


async def test_sizes_of_a_driver_that_lists_none_with_mig_off_are_the_catalogs(
    tmp_path: Path,
) -> None:
    with one(tmp_path, GpuDescription("a100-80gb")) as host:
        host.fail("nvmlDeviceGetGpuInstanceProfileInfo*", pynvml.NVML_ERROR_NOT_SUPPORTED, times=-1)
        assert {p.name for p in read_state(host.uuids()[0]).profiles} >= {"7g.80gb", "1g.10gb+me"}


async def test_sizes_of_an_old_driver_are_named_as_newer_ones_do(host: SimulatedHost) -> None:
    named = {p.name for p in read_state(host.uuids()[0]).profiles}
    host.fail(
        "nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, times=-1
    )
    host.fail(
        "nvmlGpuInstanceGetComputeInstanceProfileInfoV",
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        times=-1,
    )
    assert {p.name for p in read_state(host.uuids()[0]).profiles} == named
    assert places(host, host.uuids()[0]) == [i.place for i in read_state(host.uuids()[0]).instances]
    made = await control().ensure(cut(host.uuids()[1], "1g.10gb+me", 3, 1))
    assert made.uuid


async def test_a_mode_that_needs_a_reset_says_so_and_is_taken_back(tmp_path: Path) -> None:
    with one(tmp_path, GpuDescription("a100-80gb", reset_possible=False)) as host:
        uuid = host.uuids()[0]
        with pytest.raises(DeviceError) as refused:
            await control("mode").set_mode(uuid, on=True)
        assert "reset" in refused.value.hint.lower()
        state = read_state(uuid)
        assert (state.enabled, state.pending) == (False, False)


async def test_a_pending_mode_is_taken_back_or_completed_and_an_operators_left_alone(
    tmp_path: Path,
) -> None:
    with one(tmp_path, GpuDescription("a100-80gb", reset_possible=False)) as host:
        uuid = host.uuids()[0]
        pynvml.nvmlDeviceSetMigMode(_handle(uuid), 1)
        pynvml.nvmlShutdown()
        with pytest.raises(DeviceError, match="next reset"):
            await control("instances").ensure(cut(uuid, "2g.20gb", 0, 2))
        with pytest.raises(DeviceError) as refused:
            await control("mode").set_mode(uuid, on=True)
        assert "reset" in refused.value.hint.lower()
        assert read_state(uuid).pending
        await control("mode").set_mode(uuid, on=False)
        state = read_state(uuid)
        assert (state.enabled, state.pending) == (False, False)


async def test_what_others_left_without_compute_instance_is_left_alone(
    host: SimulatedHost,
) -> None:
    empty, place = host.uuids()[1], ("2g.20gb", 4, 2)
    perform(empty, CreateGpuInstance(place))
    left = read_state(empty)
    with pytest.raises(DeviceError, match="has no compute instance") as refused:
        await control().ensure(cut(empty, *place))
    assert "-cci" in refused.value.hint
    with pytest.raises(DeviceError, match="in the way"):
        await control().ensure(cut(empty, "3g.40gb", 4, 4))
    assert read_state(empty) == left
    made = await control().ensure(cut(empty, *place), ours=[place])
    assert made.uuid


async def test_a_pending_mode_needs_a_reset_first(host: SimulatedHost) -> None:
    empty = host.uuids()[1]
    busy = await control().ensure(cut(empty, "1g.10gb", 0, 1))
    assert busy.uuid
    handle = _handle(empty)
    pynvml.nvmlDeviceSetMigMode(handle, 0)
    pynvml.nvmlShutdown()
    with pytest.raises(DeviceError, match="next reset") as refused:
        await control("mode").ensure(cut(empty, "2g.20gb", 2, 2))
    assert "--gpu-reset" in refused.value.hint


def _handle(uuid: str) -> object:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(uuid)


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
        name, start, count = place_of(i)
        assert await control("never").ensure(cut(first, name, start, count)) == i
    with pytest.raises(DeviceError, match="this user may not change MIG") as refused:
        await control().ensure(cut(empty, "2g.20gb", 0, 2))
    assert "MIG helper" in refused.value.hint


async def test_a_gpu_without_mig_or_that_is_gone_is_refused(tmp_path: Path) -> None:
    with one(tmp_path, GpuDescription("l4-24gb")) as host:
        uuid = host.uuids()[0]
        assert await control().instances(uuid) == ()
        with pytest.raises(DeviceError, match="the GPU has no MIG"):
            await control("mode").ensure(cut(uuid, "2g.20gb", 0, 2))
        host.lose(uuid)
        with pytest.raises(DeviceError, match="GPU"):
            await control().instances(uuid)


async def test_a_profile_that_the_driver_does_not_offer_names_those_it_does(
    host: SimulatedHost,
) -> None:
    with pytest.raises(DeviceError, match=r"no MIG profile 2g\.10gb") as refused:
        await control().ensure(cut(host.uuids()[1], "2g.10gb", 0, 2))
    assert "2g.20gb at 0, 2, 4" in refused.value.hint


async def test_a_command_completes_what_it_is_asked_for(host: SimulatedHost) -> None:
    empty, place = host.uuids()[1], ("2g.20gb", 4, 2)
    perform(empty, CreateGpuInstance(place))
    (made,) = await control().apply(
        empty, MigTarget((place,)), MigPermissions("instances", complete=True)
    )
    assert made.uuid
