"""A host's partitions are made, checked and given back, and nothing is ever unjournalled."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError, StartFailedError
from partitiond.core.hardware.partition import CpuCores, MigSlice, Partition, WholeDevice
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.replica.engine import EngineHandle, EngineReport
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.devices.partitions import HostPartitions
from partitiond.devices.partitions.journal import place_of, place_text, read_entries
from partitiond.platform.process_identity import boot_id
from tests.controller.samples import placement
from tests.devices.partitions import world as made
from tests.devices.partitions.world import GPU, OPERATORS, World, handle, launch, mig, mps, share

READY = EngineReport(0, "1", {})

# -- memory shares ---------------------------------------------------------------------------


async def started(here: HostPartitions, partition: Partition) -> EngineHandle:
    return handle(await here.prepare(launch("a-1", partition)))


async def test_a_share_that_is_not_free_is_refused_with_the_figures(
    world: World, here: HostPartitions
) -> None:
    gpu = world.gpus[GPU]
    gpu.use = {4711: 75 * GIB}
    with pytest.raises(DeviceError, match=r"needs 10.* where 4") as caught:
        await here.prepare(launch("a-1", share()))
    assert caught.value.facts["bytes_asked"] == 10 * GIB
    gpu.use, gpu.mig = {}, True
    with pytest.raises(DeviceError, match="MIG is on"):
        await here.prepare(launch("a-1", share()))
    gpu.mig, world.modes[GPU] = False, 3
    with pytest.raises(DeviceError, match="EXCLUSIVE_PROCESS"):
        await here.prepare(launch("a-1", share()))
    world.modes[GPU] = 0
    await here.prepare(launch("a-1", share(60)))
    world.living, gpu.use = {10: "a-1"}, {10: GIB}  # a neighbour that is still loading
    with pytest.raises(DeviceError, match="promised"):
        await here.prepare(launch("b-1", share(30)))
    await here.prepare(launch("b-1", share(15)))
    cores = launch("a-1", CpuCores("cpu", Bytes(GIB), (0,)))  # no matter of devices
    assert await here.prepare(cores) == cores
    await here.release(cores)


async def test_an_engine_that_takes_more_than_its_share_or_has_less_cache_does_not_start(
    world: World, path: Path
) -> None:
    here = made.partitions(world, path, kv_tokens=100_000)
    engine = await started(here, share())
    with pytest.raises(StartFailedError, match="50,000 tokens where 100,000"):
        await here.verify(engine, EngineReport(50_000, "1", {}))
    world.living, world.gpus[GPU].use = {100: "a-1"}, {100: 11 * GIB}
    with pytest.raises(StartFailedError, match="1 GiB more than its partition"):
        await here.verify(engine, READY)
    world.gpus[GPU].use = {100: 10 * GIB - GIB}
    await here.prepare(launch("b-1", share(69)))
    await here.prepare(launch("c-1", share(70, "GPU-1")))
    world.living[200], world.gpus[GPU].use = "b-1", {100: 10 * GIB, 200: GIB}
    await here.verify(engine, READY)
    world.gpus[GPU].use[100] += MIB  # what is tolerated may not be a neighbour's
    with pytest.raises(StartFailedError, match="neighbours lack 1 MiB"):
        await here.verify(engine, READY)
    world.deaf = True
    with pytest.raises(StartFailedError, match="cannot be told"):
        await here.verify(engine, READY)


async def test_without_processes_in_sight_the_rise_of_the_device_counts(
    world: World, here: HostPartitions
) -> None:
    world.gpus[GPU].use = {5: 3 * GIB}
    engine = await started(here, share())
    world.gpus[GPU].use = {5: 3 * GIB, 6: 9 * GIB}
    await here.verify(engine, READY)
    world.gpus[GPU].use = {5: 3 * GIB, 6: 12 * GIB}
    with pytest.raises(StartFailedError, match="12 GiB"):
        await here.verify(engine, READY)


async def test_the_rise_of_the_device_is_not_counted_against_one_of_two_that_start_together(
    world: World, here: HostPartitions
) -> None:
    first = await started(here, share())
    second = handle(await here.prepare(launch("b-1", share(20))))
    third = handle(await here.prepare(launch("c-1", share(20))))
    world.gpus[GPU].use = {5: 40 * GIB}
    for engine in (first, second, third):
        await here.verify(engine, READY)
    fourth = handle(await here.prepare(launch("d-1", share())))  # alone again
    world.gpus[GPU].use = {5: 52 * GIB}
    with pytest.raises(StartFailedError, match="12 GiB"):
        await here.verify(fourth, READY)


@pytest.mark.parametrize("wakes_before", [True, False])
async def test_the_rise_of_the_device_is_not_counted_against_one_that_starts_while_another_wakes(
    world: World, here: HostPartitions, wakes_before: bool
) -> None:
    sleeper = await started(here, share(20))
    await here.verify(sleeper, READY)
    await here.asleep(sleeper, 1)
    if wakes_before:
        await here.waking(sleeper)
    starting = handle(await here.prepare(launch("b-1", share())))
    if not wakes_before:
        await here.waking(sleeper)
    await here.asleep(sleeper, 0)  # it is awake
    world.gpus[GPU].use = {5: 29 * GIB}
    await here.verify(starting, READY)


async def test_a_sleepers_memory_is_anothers_until_it_wakes(
    world: World, here: HostPartitions
) -> None:
    large = share(60)
    one = placement("a-1")
    asleep = SleepingFootprint(Bytes(2 * GIB), Bytes(GIB), Bytes(GIB))
    candidate = dataclasses.replace(one.candidate, asleep=asleep)
    one = dataclasses.replace(one, device_id=GPU, partition=large, candidate=candidate)
    sleeper = handle(await here.prepare(dataclasses.replace(launch("a-1", large), placement=one)))
    with pytest.raises(DeviceError):
        await here.prepare(launch("b-1", share(30)))
    world.living, world.gpus[GPU].use = {100: "a-1"}, {100: 60 * GIB}
    await here.asleep(sleeper, 1)
    world.gpus[GPU].use = {100: GIB}
    other = await here.prepare(launch("b-1", share(30)))
    with pytest.raises(DeviceError, match="a-1 needs 60"):
        await here.waking(sleeper)
    await here.release(other)
    await here.waking(sleeper)
    with pytest.raises(DeviceError, match="promised"):
        await here.prepare(launch("b-1", share(30)))


# -- modes exclude each other ------------------------------------------------------------------


@pytest.mark.parametrize("other", [mps(), mig(), WholeDevice(GPU, Bytes(GIB))])
async def test_another_mode_has_to_wait_until_the_gpu_is_empty(
    world: World, here: HostPartitions, other: Partition
) -> None:
    first = await here.prepare(launch("a-1", share()))
    with pytest.raises(DeviceError, match="a-1 in the mode 'memory'"):
        await here.prepare(launch("b-1", other))
    await here.release(first)
    world.gpus[GPU].mig = isinstance(other, MigSlice)  # turned on by its operator
    await here.prepare(launch("b-1", other))


async def test_the_host_s_own_pages_in_coherent_memory_are_nobody_s_work(
    world: World, here: HostPartitions
) -> None:
    gpu, whole = world.gpus[GPU], launch("a-1", WholeDevice(GPU, Bytes(50 * GIB)))
    gpu.host_bytes = 20 * GIB
    await here.prepare(whole)
    await here.release(whole)
    with pytest.raises(DeviceError, match="59 GiB are free"):  # they may not give way in time
        await here.prepare(launch("a-1", WholeDevice(GPU, Bytes(60 * GIB))))
    gpu.use = {4711: 100 * MIB}
    with pytest.raises(DeviceError, match="process 4711"):
        await here.prepare(whole)
    gpu.all_told, gpu.use = False, {}  # whose memory it is cannot be told from within a container
    with pytest.raises(DeviceError, match="cannot be seen from here"):
        await here.prepare(whole)
    gpu.host_bytes = 200 * MIB
    await here.prepare(whole)


# -- MIG -----------------------------------------------------------------------------------------


async def test_slices_under_an_engine_are_not_anothers(world: World, here: HostPartitions) -> None:
    world.gpus[GPU].mig, world.gpus[GPU].instances = True, {OPERATORS}
    await here.prepare(launch("a-1", mig(6)))
    with pytest.raises(DeviceError, match="a-1 has the memory slices"):
        await here.prepare(launch("b-1", mig(6)))
    assert world.gpus[GPU].instances == {OPERATORS}


# -- the journal's rule --------------------------------------------------------------------------


def rewrite(path: Path, boot: str | None = None, *more: dict[str, str]) -> str:
    """Write the journal's entries as another boot, or release, would have; return the new text."""
    body = json.loads(path.read_text())
    for entry in body["entries"]:
        entry["boot_id"] = entry["boot_id"] if boot is None else boot
    path.write_text(json.dumps(body | {"entries": [*body["entries"], *more], "colour": "red"}))
    return path.read_text()


async def test_an_instance_made_after_a_reboot_at_our_place_stays(world: World, path: Path) -> None:
    """One of this boot is ours to destroy, and one of a journal from before boots were noted."""
    gpu = world.gpus[GPU]
    gpu.mig = True
    for boot in (boot_id(), ""):
        await made.partitions(world, path).prepare(launch("a-1", mig(6)))
        assert {entry.boot_id for entry in read_entries(path)} == {boot_id()}
        rewrite(path, boot)
        here = made.partitions(world, path)
        await here.settle([])
        assert gpu.instances == set()
        await here.clear()
    await made.partitions(world, path).prepare(launch("a-1", mig(6)))
    await made.partitions(world, path).prepare(launch("c-1", mps(30, "GPU-1")))
    rewrite(path, "an earlier boot")
    here = made.partitions(world, path)
    await here.settle([])
    assert not world.gpus["GPU-1"].daemon, "is still undone"
    await here.release(await here.prepare(launch("b-1", mig(6))))
    assert gpu.instances == {OPERATORS}
    assert read_entries(path) == ()


async def prepared_before(world: World, path: Path) -> None:
    """An engine under MPS on one GPU, one in MIG on the other."""
    await made.partitions(world, path).prepare(launch("a-1", mps()))
    world.gpus["GPU-1"].mig = True
    await made.partitions(world, path).prepare(launch("b-1", mig(0, "GPU-1")))


async def test_entries_of_a_kind_of_a_later_release_do_not_spoil_the_others(
    world: World, path: Path
) -> None:
    await prepared_before(world, path)
    later = {"device_id": GPU, "kind": "nvlink", "what": "", "state": "done"}
    written = rewrite(path, None, later)
    said = await made.partitions(world, path).settle([handle(launch("a-1", mps()))])
    assert "nvlink" in said[0] or "kind" in said[0]
    assert path.with_suffix(".broken").read_text() == written
    assert world.gpus[GPU].daemon
    assert not world.gpus["GPU-1"].instances  # left over: its engine has gone


@pytest.mark.parametrize("device_id", [GPU, ""])
@pytest.mark.parametrize("journalled", [True, False])
async def test_under_an_engine_that_cannot_be_read_nothing_is_undone(
    world: World, path: Path, device_id: str, journalled: bool
) -> None:
    """Not even where the journal is lost, too, or its device is not known."""
    await prepared_before(world, path)
    for file in () if journalled else [path]:
        file.unlink()
    lost = dataclasses.replace(launch("a-1", None), device_id=device_id)
    living = dataclasses.replace(handle(lost), unread="no dtype")
    here = made.partitions(world, path)
    await here.settle([living])
    await here.faults()  # what is left over is tried again
    assert world.gpus[GPU].daemon
    assert bool(world.gpus["GPU-1"].instances) == (not device_id or not journalled)
    await here.release(lost)
    assert "a-1" not in {user for entry in read_entries(path) for user in entry.users}
    await made.partitions(world, path).settle([])
    assert not world.gpus[GPU].daemon


async def test_a_damaged_journal_is_put_aside_and_one_that_cannot_be_written_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "state/devices.json"
    path.parent.mkdir()
    path.write_text("{")
    world.gpus[GPU].daemon = True
    here = made.partitions(world, path)
    said = await here.settle([])
    assert "could not be read" in said[0]
    assert path.with_suffix(".broken").read_text() == "{"
    assert not world.gpus[GPU].daemon
    world.gpus[GPU].mig = True
    known = await here.prepare(launch("k-1", mig(1)))
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    with pytest.raises(DeviceError, match="cannot be written"):
        await here.prepare(launch("a-1", mig()))
    assert len(world.gpus[GPU].instances) == 1
    await here.release(known)
    await here.prepare(known)
    assert len(world.gpus[GPU].instances) == 1, "the file had it: no start of it waits for a disk"
    await here.release(known)
    await here.prepare(launch("b-1", mps(30, "GPU-1")))
    assert world.gpus["GPU-1"].daemon, "it leaves a record of its own"
    path.parent.mkdir()
    await here.clear()
    assert not world.gpus["GPU-1"].daemon


async def test_who_uses_a_thing_is_told_by_the_engines_and_not_by_an_old_file(
    world: World, tmp_path: Path
) -> None:
    """As after a full disk: an engine moved from one GPU to the other, and nothing was written."""
    path, world.gpus[GPU].mig = tmp_path / "state/devices.json", True
    path.parent.mkdir()
    here = made.partitions(world, path)
    moves = await here.prepare(launch("a-1", mps(30, "GPU-1")))
    instance = await here.prepare(launch("b-1", mig()))
    await here.release(await here.prepare(launch("c-1", mig(1))))
    old = path.read_text()
    for one in (moves, instance):
        await here.release(one)
    moved = await here.prepare(launch("a-1", mig()))
    path.write_text(old)
    later = made.partitions(world, path)
    await later.settle([handle(moved)])
    assert not world.gpus["GPU-1"].daemon
    assert not await later.faults()
    assert len(world.gpus[GPU].instances) == 1, "its user lives, whatever the file says"
    (entry,) = read_entries(path)
    assert entry.users == ("a-1",)


@given(st.sampled_from(["1g.10gb", "1g.10gb+me", "2g.20gb"]), st.integers(0, 7), st.integers(1, 8))
def test_a_place_survives_the_journal(name: str, start: int, count: int) -> None:
    assert place_of(place_text((name, start, count))) == (name, start, count)
