"""The journal covers the devices after any order of events, and they end as they were found."""

import asyncio
import contextlib
import dataclasses
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import MigSlice, MpsShare, Partition
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB, Bytes
from partitiond.devices.partitions.journal import EntryKind, place_text, read_entries
from tests.devices.partitions import world as made
from tests.devices.partitions.world import OPERATORS, World, handle, launch, mig, mps, share


@dataclasses.dataclass(frozen=True)
class Step:
    """Something happens to a replica; it may crash or be refused at the n-th touch of a device."""

    what: str
    replica: int
    partition: Partition
    crash_in: int | None
    refuse_in: int | None
    survivors: int


STEPS = st.builds(
    Step,
    what=st.sampled_from(["prepare", "prepare", "prepare", "release", "kill -9", "faults"]),
    replica=st.integers(0, 3),
    partition=st.one_of(
        st.builds(share, st.integers(1, 40), st.sampled_from(["GPU-0", "GPU-1"])),
        st.builds(mps, st.integers(10, 50), st.sampled_from(["GPU-0", "GPU-1"])),
        st.builds(mig, st.integers(0, 6), st.sampled_from(["GPU-0", "GPU-1"])),
        st.builds(lambda d: MigSlice(d, Bytes(GIB), "2g.20gb", 4, 2), st.just("GPU-1")),
    ),
    crash_in=st.one_of(st.none(), st.integers(0, 5)),
    refuse_in=st.one_of(st.none(), st.integers(0, 5)),
    survivors=st.integers(0, 15),
)


def require_covered(world: World, before: World, path: Path) -> None:
    """Everything on a device that was not there before is in the journal on disk."""
    entries = {(e.device_id, e.kind, e.what) for e in read_entries(path)}
    for name, gpu in world.gpus.items():
        if gpu.daemon:
            assert (name, EntryKind.MPS, "") in entries
        for place in gpu.instances - before.gpus[name].instances:
            assert (name, EntryKind.MIG_INSTANCE, place_text(place)) in entries


def require_kept(world: World, running: dict[str, EngineLaunch]) -> None:
    """Whatever a living engine needs is there."""
    for started in running.values():
        partition = started.partition
        assert partition is not None
        gpu = world.gpus[partition.device_id]
        if isinstance(partition, MpsShare):
            assert gpu.daemon
        if isinstance(partition, MigSlice):
            place = (partition.mig_profile, partition.slice_start, partition.slice_count)
            assert place in gpu.instances


def fresh_world() -> World:
    world = World()
    world.gpus["GPU-1"].mig, world.gpus["GPU-1"].instances = True, {OPERATORS}
    return world


@given(st.lists(STEPS, max_size=25))
def test_whatever_happens_the_journal_covers_the_devices_and_they_end_as_found(
    steps: list[Step],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_walk(steps, Path(folder) / "devices.json"))


async def _walk(steps: list[Step], path: Path) -> None:
    world, before = fresh_world(), fresh_world()
    here = made.partitions(world, path)
    running: dict[str, EngineLaunch] = {}
    for step in steps:
        name = f"m-{step.replica}"
        world.crash_in, world.refuse_in = step.crash_in, step.refuse_in
        crashed = False
        try:
            with contextlib.suppress(DeviceError):
                if step.what == "prepare" and name not in running:
                    running[name] = await here.prepare(launch(name, step.partition))
                elif step.what == "release" and name in running:
                    gone = running.pop(name)
                    world.living = dict(enumerate(running))
                    await here.release(gone)
                elif step.what == "faults":
                    here._retried_at = float("-inf")
                    await here.faults()
        except made.Crashed:
            crashed = True
        world.crash_in = world.refuse_in = None
        require_covered(world, before, path)
        if crashed or step.what == "kill -9":
            survivors = [n for i, n in enumerate(sorted(running)) if step.survivors >> i & 1]
            running = {n: running[n] for n in survivors}
            here = made.partitions(world, path)
            await here.settle([handle(started) for started in running.values()])
            require_covered(world, before, path)
        world.living = dict(enumerate(running))
        require_kept(world, running)
    here = made.partitions(world, path)
    world.living = {}
    await here.settle([])
    assert list(await here.clear()) == []
    assert world.picture() == before.picture()
    assert read_entries(path) == ()
