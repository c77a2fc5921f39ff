"""MIG geometry gives the sets of instances that one GPU holds together, and their starts."""

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.geometry import (
    Geometry,
    Place,
    geometry_of,
    instance_bytes,
)
from tests.core.mig.maximal_placements import maximal_placements

WITH_MIG = [key for key, spec in HARDWARE.items() if spec.mig_profiles]


def geometry(hardware: str = "a100-40gb", occupied: tuple[int, ...] = ()) -> Geometry:
    """The geometry of a GPU that has one."""
    found = geometry_of(hardware, occupied)
    assert found is not None
    return found


@pytest.mark.parametrize("hardware", WITH_MIG)
def test_an_eight_slice_gpu_has_78_maximal_placements_of_38_kinds(hardware: str) -> None:
    found = maximal_placements(hardware)
    kinds = {tuple(sorted(name for name, _, _ in placed)) for placed in found}
    assert (len(found), len(kinds)) == (78, 38)


def test_gpus_without_mig_have_no_geometry() -> None:
    assert geometry_of("l4-24gb") is None
    assert geometry_of("a-gpu-nobody-knows") is None


@pytest.mark.parametrize(
    ("counts", "placeable"),
    [
        ({"1g.5gb": 7}, True),
        ({"1g.5gb": 8}, False),
        ({"2g.10gb": 3, "1g.10gb": 1}, True),
        ({"3g.20gb": 1, "1g.5gb": 4}, True),
        ({"3g.20gb": 1, "1g.5gb": 5}, False),
        ({"4g.20gb": 2}, False),
        ({"1g.5gb+me": 1, "1g.5gb": 6}, True),
        ({"1g.5gb+me": 2}, False),
        ({"1g.5gb+me": 1, "1g.5gb": 7}, False),
    ],
)
def test_known_sets(counts: dict[str, int], placeable: bool) -> None:
    """`tests/property` compares all sets without media engines with a search."""
    there = geometry()
    assert (there.places(counts) is not None) == placeable
    code = there.code(counts)
    assert (code is not None and there.holds(code)) == placeable


@pytest.mark.parametrize("hardware", WITH_MIG)
def test_one_more_instance_never_looks_like_another_set(hardware: str) -> None:
    there = geometry(hardware)
    for counts in there.sets:
        code = sum(n * radix for n, radix in zip(counts, there.radix, strict=True))
        wanted = {p.name: n for p, n in zip(there.profiles, counts, strict=True)}
        for name, count in wanted.items():
            more = {**wanted, name: count + 1}
            assert there.holds(code + there.step(name)) == (there.places(more) is not None), more


def test_of_a_full_gpu_nothing_is_left() -> None:
    assert geometry(occupied=(0, 1, 2, 3)).most == 3
    full = geometry(occupied=tuple(range(8)))
    assert full.most == 0
    assert full.places({}) == []


@pytest.mark.parametrize(
    "kept",
    [
        (("2g.10gb", 1, 2),),
        (("2g.10gb", 0, 1),),
        (("9g.99gb", 0, 1),),
        (("1g.5gb", 0, 1), ("1g.5gb", 0, 1)),
        (("1g.5gb", 5, 1), ("3g.20gb", 4, 4)),
    ],
)
def test_what_cannot_exist_is_not_kept(kept: tuple[Place, ...]) -> None:
    counts: dict[str, int] = {}
    for name, _, _ in kept:
        counts[name] = counts.get(name, 0) + 1
    assert geometry().places(counts, kept) is None


def test_small_instances_leave_the_starts_of_large_ones_free() -> None:
    assert geometry().places({}, (("1g.5gb", 0, 1),)) is None
    there = geometry()
    places = there.places({"1g.5gb": 3})
    assert places is not None
    assert {start for _, start, _ in places} == {4, 5, 6}
    with_large = there.places({"1g.5gb": 3, "4g.20gb": 1}, tuple(places))
    assert with_large is not None


def test_an_instance_has_its_memory_less_the_headroom() -> None:
    smallest = HARDWARE["a100-40gb"].mig_profiles[0]
    assert instance_bytes(smallest) == smallest.memory_bytes - 512 * 2**20
