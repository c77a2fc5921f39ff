"""Abstract devices become real ones: running replicas stay, and instances find their slices."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import CpuCores, MigSlice, PartitionSize
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.record import Candidate, Placement, diff_plans
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import applied, assign
from partitiond.planner.pack.packing import Packing
from tests.planner.build import cpu, gpu, in_mig, on_cores, point, want
from tests.planner.check.make import placed


def packed(instance: Instance, *loads: list[str]) -> Packing:
    """A packing with items of these MIG profiles on each device."""
    packing = Packing(instance)
    items = {i.mig_profile: i.index for i in instance.items}
    for index, load in enumerate(loads):
        for name in load:
            assert packing.fits(index, items[name], 0)
            packing.add(index, items[name], 0)
    return packing


def runs(candidate: Candidate, number: int, start: int, device: str = "gpu-0") -> Placement:
    """A replica that runs in a GPU instance."""
    size = 4 if candidate == LARGE else 1
    return placed(candidate, number, device, slice_start=start, slice_count=size)


def starts(placements: tuple[Placement, ...]) -> dict[str, tuple[str, int]]:
    """Device and first slice by replica."""
    return {
        p.replica_id: (p.device_id, p.partition.slice_start)
        for p in placements
        if isinstance(p.partition, MigSlice)
    }


SMALL, LARGE = in_mig("s", 1, "1g.10gb", 8), in_mig("l", 1, "3g.40gb", 8)
MODELS = (want("s", SMALL, rate=1), want("l", LARGE, rate=1))


def cut(name: str = "gpu-0", **changes: object) -> Device:
    """A GPU that is cut by MIG."""
    return gpu(name, modes=(SharingMode.MIG,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("second", "moved"), [(3, 0), (5, 1)])
def test_running_instances_keep_their_slices_unless_they_are_in_the_way(
    second: int, moved: int
) -> None:
    running = (runs(SMALL, 1, 1), runs(SMALL, 2, second))
    instance = build_instance(PlanRequest((cut(),), MODELS, running=running))
    packing = packed(instance, ["1g.10gb", "1g.10gb", "3g.40gb"])
    placements = assign(instance, packing)
    diff = diff_plans(running, placements)
    assert (len(diff.keep), len(diff.move), len(diff.start)) == (2 - moved, moved, 1)
    assert starts(placements)["l-1"] == ("gpu-0", 4)
    loaded = (SMALL, LARGE) if moved else (LARGE,)
    new = sum(c.memory_bytes - c.kv_cache_bytes for c in loaded)
    assert applied(instance, packing).load_bytes == new


def test_an_instance_on_slices_that_others_took_has_to_move() -> None:
    running = (runs(SMALL, 1, 0),)
    devices = (cut(occupied_slices=(0,)),)
    instance = build_instance(PlanRequest(devices, MODELS, running=running))
    placements = assign(instance, packed(instance, ["1g.10gb"]))
    assert starts(placements)["s-1"][1] != 0


def test_sets_stay_on_their_host_where_a_rule_speaks_of_hosts() -> None:
    rules = PlacementRules(survive=FaultDomain.HOST, survive_share=0.5)
    models = (dataclasses.replace(MODELS[0], rules=rules), MODELS[1])
    running = (runs(LARGE, 1, 4, "gpu-1"),)
    devices = (cut(host="x"), cut("gpu-1", host="y"))
    instance = build_instance(PlanRequest(devices, models, running=running))
    packing = packed(instance, ["3g.40gb"], ["1g.10gb"])
    assert starts(assign(instance, packing))["l-1"][0] == "gpu-0"


def shared(model: str, mode: SharingMode, gib: float = 4, sm_percent: int = 50) -> Candidate:
    found = point(model, 1, gib, mode=mode)
    percent = sm_percent if mode is SharingMode.MPS else 100
    return dataclasses.replace(found, size=PartitionSize(mode, 0, percent))


def homes(*loads: list[Candidate], running: tuple[Placement, ...]) -> list[str]:
    """The device of each replica; there is a device for each load."""
    devices = tuple(gpu(f"gpu-{n}") for n in range(len(loads)))
    every = [candidate for load in loads for candidate in load]
    names = dict.fromkeys(candidate.model for candidate in every)
    wanted = tuple(
        want(name, *dict.fromkeys(c for c in every if c.model == name), rate=1) for name in names
    )
    instance = build_instance(PlanRequest(devices, wanted, running=running))
    packing = Packing(instance)
    for index, load in enumerate(loads):
        for candidate in load:
            item = next(i for i in instance.items if i.candidate == candidate)
            option = packing.best_option(index, [*packing.loads[index].items, item.index])
            assert option is not None
            packing.add(index, item.index, option)
    return [p.device_id for p in assign(instance, packing)]


SMALL_SHARE = shared("m", SharingMode.MEMORY)
STAYS, LEAVES = shared("s", SharingMode.MEMORY, 30), shared("m", SharingMode.MEMORY, 40)


@pytest.mark.parametrize(
    ("runs", "load", "where"),
    [
        # What changes the mode of its device, or has no room beside what it replaces, moves.
        ([SMALL_SHARE], [shared("m", SharingMode.MPS)] * 2, "gpu-1"),
        ([shared("m", SharingMode.MEMORY, 50)], [shared("m", SharingMode.MEMORY, 60)], "gpu-1"),
        ([SMALL_SHARE], [shared("m", SharingMode.MEMORY, 8)], "gpu-0"),
        # Nothing else moves so that it can start at once.
        ([STAYS, LEAVES], [STAYS, shared("m", SharingMode.MEMORY, 45)], "gpu-0"),
    ],
)
def test_what_is_new_starts_beside_what_it_replaces_or_on_an_idle_device(
    runs: list[Candidate], load: list[Candidate], where: str
) -> None:
    running = tuple(placed(c) for c in runs)
    assert set(homes(load, [], running=running)) == {where}


def test_cores_of_one_node() -> None:
    device = dataclasses.replace(cpu(8), core_nodes=((0, 1, 2, 3), (4, 5, 6, 7)))
    models = tuple(want(name, on_cores(name, 1, 3), rate=1) for name in ("a", "b"))
    instance = build_instance(PlanRequest((device,), models))
    packing = Packing(instance)
    for item in instance.items:
        packing.add(0, item.index, 0)
    for placement in assign(instance, packing):
        assert isinstance(placement.partition, CpuCores)
        assert len({core // 4 for core in placement.partition.cores}) == 1
