"""The host makes every MIG placement of a plan: planner and driver agree on every geometry.

The host has an operator's instances, idle and in use, some half made; some instances are ours.
"""

import asyncio
import dataclasses
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MigSlice, WholeDevice
from partitiond.core.mig.changes import CreateGpuInstance, MigChanges
from partitiond.core.mig.geometry import Place, place_of
from partitiond.core.plan.record import Infeasible, ModelDemand, Placement
from partitiond.core.units import GIB
from partitiond.devices.host import HostDevices
from partitiond.devices.mig import MigControl, read_state
from partitiond.devices.mig.instances import perform
from partitiond.devices.mps import MpsControl
from partitiond.devices.partitions import DeviceJournal, HostPartitions
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.devices.partitions.journal import EntryKind, read_entries
from partitiond.devices.partitions.journal import place_of as place_in
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.devices.partitions.world import handle, launch
from tests.planner.build import in_mig, point, want

HALF_MADE: Place = ("2g.20gb", 4, 2)
MIG_PROFILES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


class Fleet:
    """A daemon's devices and partitions on a simulated host."""

    def __init__(self, host: SimulatedHost, folder: Path, changes: MigChanges) -> None:
        self.host, self.journal = host, DeviceJournal(folder / "devices.json")
        self.changes: MigChanges = changes
        self.path = folder / "devices.json"
        nowhere = folder / "none.sock"
        self.devices = HostDevices(
            cpu=False,
            mig_changes=changes,
            mig_helper=nowhere,
            simulated_host=host.folder,
            own_instances=self._own,
            gpu_cores=range(64),
        )
        self.partitions = HostPartitions(
            self.journal,
            gpus=NvmlGpus(host_pids=True),
            daemons=MpsControl(folder / "r", str(host.mps_control)),
            instances=MigControl(changes, nowhere),
            owners=self._owners,
            kv_tokens=lambda _: 0,
        )

    def _owners(self) -> Mapping[int, str]:
        return {}

    def _own(self, uuid: str) -> Collection[Place]:
        entries = self.journal.of(uuid)
        return [place_in(e.what) for e in entries if e.kind is EntryKind.MIG_INSTANCE]

    def plan(
        self, models: tuple[ModelDemand, ...], running: tuple[Placement, ...] = ()
    ) -> tuple[Placement, ...]:
        found = solve(
            PlanRequest(
                devices=tuple(self.devices.discover()),
                models=models,
                running=running,
                time_limit_seconds=0.3,
            )
        )
        return () if isinstance(found, Infeasible) else found.placements

    async def start(self, placement: Placement) -> MigSlice:
        assert isinstance(placement.partition, MigSlice)
        made = await self.partitions.prepare(launch(placement.replica_id, placement.partition))
        there = {i.uuid: i for i in self.host.geometry(placement.device_id)}
        assert place_of(there[made.visible_device]) == _place(placement.partition)
        assert placement.partition.memory_bytes <= made.device_memory_bytes
        return placement.partition

    async def stop(self, placement: Placement) -> None:
        await self.partitions.release(launch(placement.replica_id, placement.partition))

    def picture(self) -> list[object]:
        return [read_state(uuid) for uuid in self.host.uuids()]


def _place(partition: MigSlice) -> Place:
    return partition.mig_profile, partition.slice_start, partition.slice_count


@dataclasses.dataclass(frozen=True)
class Case:
    """What there is, and what is wanted first and then."""

    changes: MigChanges
    busy: frozenset[int]
    half_made: bool
    first: tuple[tuple[str, int], ...]
    then: tuple[tuple[str, int], ...]


WISHES = st.lists(
    st.tuples(st.sampled_from(MIG_PROFILES), st.integers(1, 4)), min_size=1, max_size=4
).map(tuple)
CASES = st.builds(
    Case,
    changes=st.sampled_from(["instances", "instances", "never"]),
    busy=st.frozensets(st.integers(0, 3), max_size=2),
    half_made=st.booleans(),
    first=WISHES,
    then=WISHES,
)


def demands(wishes: tuple[tuple[str, int], ...]) -> tuple[ModelDemand, ...]:
    """So many replicas of each model, each in an instance of its MIG profile."""
    return tuple(
        want(f"m{n}-{name}", in_mig(f"m{n}-{name}", 1.0, name), rate=float(count))
        for n, (name, count) in enumerate(wishes)
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pl-") as found:
        yield Path(found)


@settings(max_examples=8)
@given(case=CASES)
def test_what_is_planned_on_mig_is_made_and_taken_away(folder: Path, case: Case) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        own = Path(name)
        with SimulatedHost.create("a100-80gb-mig", own / "host").installed() as host:
            asyncio.run(_lives(Fleet(host, own, case.changes), case))


async def _lives(fleet: Fleet, case: Case) -> None:
    cut, empty = fleet.host.uuids()[:2]
    for number in case.busy:
        fleet.host.add_process(fleet.host.geometry(cut)[number].uuid, os.getpid(), GIB)
    if case.half_made:
        perform(empty, CreateGpuInstance(HALF_MADE))
    before = fleet.picture()
    first = fleet.plan(demands(case.first))
    for placement in first:
        await fleet.start(placement)
    again = fleet.plan(demands(case.then), running=first)
    stay = {p.replica_id: p for p in again if p in first}
    for placement in first:
        if placement.replica_id not in stay:
            await fleet.stop(placement)
    for placement in again:
        if placement.replica_id not in stay:
            await fleet.start(placement)
    if case.changes == "never":
        assert read_entries(fleet.path) == ()
    for placement in again:
        await fleet.stop(placement)
    assert read_entries(fleet.path) == ()
    assert fleet.picture() == before


def one_gpu(tmp_path: Path, **figures: int) -> SimulatedHost:
    host = SimulatedHost.create(
        HostDescription("one", (GpuDescription("a100-80gb"),)), tmp_path / "host"
    )
    host.set_health(host.uuids()[0], **figures)
    return host


async def test_an_exclusive_gpu_gets_one_engine_or_mps(tmp_path: Path) -> None:
    host = one_gpu(tmp_path, compute_mode=3)
    with host.installed():
        fleet = Fleet(host, tmp_path, "instances")
        (gpu,) = fleet.devices.discover()
        assert gpu.modes == (SharingMode.WHOLE, SharingMode.MPS)
        shares = tuple(
            want(f"m{n}", point(f"m{n}", 1.0, 10.0), rate=1.0) for n in range(2)
        )  # memory shares: they would take turns, and cannot
        placements = fleet.plan(shares)
        assert {p.partition.mode for p in placements} <= {SharingMode.WHOLE, SharingMode.MPS}
        assert len(placements) <= 1
        mps = tuple(want(f"m{n}", point(f"m{n}", 1.0, 10.0, sm=30), rate=1.0) for n in range(2))
        placements = fleet.plan(mps)
        assert [p.partition.mode for p in placements] == [SharingMode.MPS] * 2
        await _start_and_stop(fleet, placements)
        whole = (want("m", point("m", 1.0, 10.0, mode=SharingMode.WHOLE), rate=2.0),)
        placements = fleet.plan(whole)
        assert [p.partition.mode for p in placements] == [SharingMode.WHOLE]
        await _start_and_stop(fleet, placements)


async def _start_and_stop(fleet: Fleet, placements: tuple[Placement, ...]) -> None:
    started = [launch(p.replica_id, p.partition) for p in placements]
    try:
        for wanted in started:
            prepared = await fleet.partitions.prepare(wanted)
            environment = dict(prepared.extra_env)
            in_mps = not isinstance(wanted.partition, WholeDevice)
            assert ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in environment) is in_mps
    finally:
        for wanted in started:
            await fleet.partitions.before_stop(handle(wanted))
            await fleet.partitions.release(wanted)
    assert read_entries(fleet.path) == ()


def test_what_others_left_half_made_is_not_planned_with(tmp_path: Path) -> None:
    with SimulatedHost.create("a100-80gb-mig", tmp_path / "host").installed() as host:
        fleet = Fleet(host, tmp_path, "instances")
        perform(host.uuids()[1], CreateGpuInstance(HALF_MADE))

        def seen() -> Device:
            return fleet.devices.discover()[1]

        assert seen().occupied_slices == (4, 5)
        planned = fleet.plan(demands((("2g.20gb", 3),)))
        assert not {
            s
            for p in planned
            if p.device_id == host.uuids()[1] and isinstance(p.partition, MigSlice)
            for s in range(p.partition.slice_start, p.partition.slice_start + 2)
        } & {4, 5}
        # Ours is: a crash left it, and whoever needs it completes it.
        fleet.journal.use(host.uuids()[1], EntryKind.MIG_INSTANCE, "2g.20gb@4+2", "")
        assert seen().occupied_slices == ()
