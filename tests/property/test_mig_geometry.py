"""The table of MIG sets agrees with trying every placement."""

import functools
import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.geometry import Geometry, Place, geometry_of

# The driver's table, written down again: compute slices, memory slices, starts, most of a kind.
SIZES = (
    ("1g", 1, 1, (0, 1, 2, 3, 4, 5, 6), 7),
    ("1g+me", 1, 1, (0, 1, 2, 3, 4, 5, 6), 1),
    ("1g double", 1, 2, (0, 2, 4, 6), 4),
    ("2g", 2, 2, (0, 2, 4), 3),
    ("3g", 3, 4, (0, 4), 2),
    ("4g", 4, 4, (0,), 1),
    ("7g", 7, 8, (0,), 1),
)
KINDS = ("a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "b200-180gb")

counts_of = st.tuples(*(st.integers(0, most + 1) for *_, most in SIZES))
occupations = st.sets(st.integers(0, 7), max_size=6).map(lambda s: tuple(sorted(s)))


def table(hardware: str, occupied: tuple[int, ...] = ()) -> Geometry:
    """The geometry under test."""
    found = geometry_of(hardware, occupied)
    assert found is not None
    return found


@functools.cache
def every_set(occupied: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
    """Counts of all placements, by trying each size at each start or not at all."""
    spots = [(i, s, size) for i, (_, _, size, starts, _) in enumerate(SIZES) for s in starts]
    found: set[tuple[int, ...]] = set()

    def go(position: int, taken: frozenset[int], counts: tuple[int, ...]) -> None:
        found.add(counts)
        for n in range(position, len(spots)):
            i, start, size = spots[n]
            covered = frozenset(range(start, start + size))
            if taken & covered or counts[i] == SIZES[i][4]:
                continue
            more = tuple(c + (k == i) for k, c in enumerate(counts))
            go(n + 1, taken | covered, more)

    go(0, frozenset(occupied), (0,) * len(SIZES))
    return frozenset(found)


def by_name(geometry: Geometry, counts: tuple[int, ...]) -> dict[str, int]:
    """Counts by MIG profile; the catalog lists the sizes in the order of SIZES."""
    return {p.name: n for p, n in zip(geometry.profiles, counts, strict=True)}


def test_the_catalog_lists_the_sizes_that_are_tried() -> None:
    for hardware in KINDS:
        listed = HARDWARE[hardware].mig_profiles
        for profile, (_, compute, memory, _, most) in zip(listed, SIZES, strict=True):
            assert (profile.compute_slices, profile.memory_slices) == (compute, memory)
            assert profile.max_instances == most


def test_an_empty_gpu_holds_exactly_what_can_be_placed() -> None:
    for hardware in KINDS:
        assert set(table(hardware).sets) == every_set(())


@settings(max_examples=150)
@given(occupied=occupations, counts=counts_of, hardware=st.sampled_from(KINDS))
def test_any_set_beside_any_occupation(
    occupied: tuple[int, ...], counts: tuple[int, ...], hardware: str
) -> None:
    geometry = table(hardware, occupied)
    expected = counts in every_set(occupied)
    assert set(geometry.sets) == every_set(occupied)
    assert (geometry.places(by_name(geometry, counts)) is not None) == expected
    code = geometry.code(by_name(geometry, counts))
    assert (code is not None and geometry.holds(code)) == expected


@settings(max_examples=200)
@given(
    data=st.data(),
    occupied=occupations,
    hardware=st.sampled_from(KINDS),
)
def test_what_runs_stays_wherever_any_arrangement_lets_it(
    data: st.DataObject, occupied: tuple[int, ...], hardware: str
) -> None:
    geometry = table(hardware, occupied)
    counts = data.draw(st.sampled_from(sorted(every_set(occupied))))
    somewhere = data.draw(
        st.sampled_from(list(itertools.islice(arrangements(counts, occupied), 40)))
    )
    kept = tuple(place for place in named(geometry, somewhere) if data.draw(st.booleans()))
    wanted = data.draw(st.sampled_from(sorted(every_set(occupied))))
    found = geometry.places(by_name(geometry, wanted), kept)
    possible = any(
        set(kept) <= set(named(geometry, places)) for places in arrangements(wanted, occupied)
    )
    assert (found is not None) == possible
    if found is not None:
        assert set(kept) <= set(found)
        covered = [s for _, start, size in found for s in range(start, start + size)]
        assert len(set(covered)) == len(covered)
        assert not set(covered) & set(occupied)


def named(geometry: Geometry, places: tuple[tuple[int, int], ...]) -> list[Place]:
    """Places by size and start as places by MIG profile."""
    return [(geometry.profiles[i].name, s, SIZES[i][2]) for i, s in places]


def arrangements(
    counts: tuple[int, ...], occupied: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every way to place a set: (size, start) of each instance."""
    wanted = [i for i, n in enumerate(counts) for _ in range(n)]

    def go(n: int, taken: frozenset[int], least: int) -> Iterator[tuple[tuple[int, int], ...]]:
        if n == len(wanted):
            yield ()
            return
        i = wanted[n]
        for start in SIZES[i][3]:
            covered = frozenset(range(start, start + SIZES[i][2]))
            # Equal ones in ascending order: each arrangement once.
            if taken & covered or (n > 0 and wanted[n - 1] == i and start < least):
                continue
            for rest in go(n + 1, taken | covered, start):
                yield ((i, start), *rest)

    return go(0, frozenset(occupied), 0)
