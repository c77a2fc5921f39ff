"""Packings, the exact solver and the assignment hold in mode MIG only what can be placed."""

import collections
import dataclasses
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MigSlice, PartitionSize
from partitiond.core.mig.geometry import Geometry, Place, geometry_of, instance_bytes
from partitiond.core.model.spec import Isolation
from partitiond.core.plan.record import Candidate, Plan
from partitiond.core.units import GIB, Bytes
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.assign import SliceWish, choose_slices
from partitiond.planner.pack.packing import Packing
from tests.planner.build import gpu, point, want
from tests.property.test_mig_geometry import every_set

KINDS = ("a100-80gb", "h100-80gb")
NAMES = tuple(p.name for p in (geometry_of("a100-80gb") or Geometry((), (), b"")).profiles)


def on_slice(model: str, rate: float, name: str, hardware: str = "a100-80gb") -> Candidate:
    """A candidate in a GPU instance, small enough for any."""
    found = point(model, rate, 4, mode=SharingMode.MIG, hardware=hardware, busy=1.0)
    return dataclasses.replace(found, size=PartitionSize(SharingMode.MIG, 1, 100, name))


def cut(name: str = "gpu-0", **changes: object) -> Device:
    """A GPU that may be cut by MIG, and nothing else."""
    return dataclasses.replace(gpu(name, modes=(SharingMode.MIG,)), **changes)  # type: ignore[arg-type]


occupations = st.sets(st.integers(0, 7), max_size=5).map(lambda s: tuple(sorted(s)))


def counts_of(chosen: list[str]) -> tuple[int, ...]:
    """How many there are of each size, in the catalog's order."""
    number = collections.Counter(chosen)
    return tuple(number[name] for name in NAMES)


@settings(max_examples=50)
@given(
    chosen=st.lists(st.sampled_from(NAMES), max_size=8),
    occupied=occupations,
    hardware=st.sampled_from(KINDS),
    most=st.none() | st.integers(1, 7),
)
def test_a_packing_holds_exactly_the_sets_that_can_be_placed(
    chosen: list[str], occupied: tuple[int, ...], hardware: str, most: int | None
) -> None:
    model = want("m", *(on_slice("m", 1, name, hardware) for name in NAMES), rate=1)
    device = cut(hardware=hardware, occupied_slices=occupied, max_replicas=most)
    instance = build_instance(PlanRequest((device,), (model,)))
    group = instance.groups[0]
    by_name = {instance.items[i].mig_profile: i for fit in group.fits for i in fit}
    placeable = counts_of(chosen) in every_set(occupied) and len(chosen) <= (most or 7)
    packing, held = Packing(instance), True
    for name in chosen:
        held = held and name in by_name and packing.fits(0, by_name[name], 0)
        if held:
            packing.add(0, by_name[name], 0)
    assert held == placeable
    if held and chosen:
        items = [by_name[name] for name in chosen]
        assert packing.best_option(0, items) == 0
        packing.remove(0, items[0])
        assert packing.fits(0, items[0], 0)


@settings(max_examples=50)
@given(data=st.data(), occupied=occupations)
def test_the_most_bytes_stay_in_their_instances(
    data: st.DataObject, occupied: tuple[int, ...]
) -> None:
    geometry = geometry_of("a100-80gb", occupied)
    assert geometry is not None
    wanted = data.draw(st.sampled_from(geometry.sets))
    running = data.draw(st.sampled_from(geometry.sets))
    counts = dict(zip(NAMES, running, strict=True))
    there = geometry.places(counts) or []
    wishes = []
    for name, count in zip(NAMES, wanted, strict=True):
        mine = [place for place in there if place[0] == name]
        for n in range(count):
            size = data.draw(st.integers(0, 3))
            wishes.append(SliceWish(name, mine[n] if n < len(mine) else None, size))
    places = choose_slices(geometry, wishes)
    assert [place[0] for place in places] == [wish.mig_profile for wish in wishes]
    covered = [s for _, start, size in places for s in range(start, start + size)]
    assert len(set(covered)) == len(covered)
    assert not set(covered) & set(occupied)
    assert _stays(wishes, places) == _most_that_can_stay(geometry, wishes)


def _stays(wishes: list[SliceWish], places: list[Place]) -> int:
    pairs = zip(wishes, places, strict=True)
    return sum(1 + wish.load_bytes for wish, place in pairs if wish.kept == place)


def _most_that_can_stay(geometry: Geometry, wishes: list[SliceWish]) -> int:
    counts = collections.Counter(wish.mig_profile for wish in wishes)
    kept = [wish for wish in wishes if wish.kept is not None]
    best = 0
    for size in range(len(kept) + 1):
        for chosen in itertools.combinations(kept, size):
            places = tuple(wish.kept for wish in chosen if wish.kept is not None)
            if geometry.places(counts, places) is not None:
                best = max(best, sum(1 + wish.load_bytes for wish in chosen))
    return best


def test_a_footprint_larger_than_the_instance_has_no_place() -> None:
    geometry = geometry_of("a100-80gb")
    assert geometry is not None
    small = on_slice("m", 1, NAMES[0])
    room = instance_bytes(geometry.profiles[0])
    fits = dataclasses.replace(small, memory_bytes=Bytes(room // 2**20 * 2**20))
    for candidate, placed in (
        (fits, True),
        (dataclasses.replace(small, memory_bytes=Bytes(room + 1)), False),
    ):
        plan = solve(PlanRequest((cut(),), (want("m", candidate, rate=1),), time_limit_seconds=1))
        assert (isinstance(plan, Plan) and bool(plan.placements)) == placed


def test_whoever_wants_hardware_isolation_gets_an_instance_beside_others() -> None:
    models = tuple(
        want(name, on_slice(name, 1, NAMES[3]), rate=1, isolation=Isolation.HARDWARE)
        for name in ("a", "b")
    )
    plan = solve(PlanRequest((cut(),), models, time_limit_seconds=1))
    assert isinstance(plan, Plan)
    assert [type(p.partition) for p in plan.placements] == [MigSlice, MigSlice]
    assert plan.placements[0].partition.memory_bytes == 4 * GIB
