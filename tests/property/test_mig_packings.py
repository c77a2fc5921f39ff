"""Geometry, packings, exact solver and assignment hold in mode MIG just what can be placed, by
trying every place: on an empty GPU, and beside instances that exist or slices that others took.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, MigInstance, SharingMode
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig.geometry import (
    Geometry,
    Place,
    geometry_of,
    geometry_on,
    instance_bytes,
    starts_of,
)
from partitiond.core.plan.record import Candidate, Infeasible, Plan
from partitiond.core.units import GIB, Bytes
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.assign import SliceWish, choose_slices
from partitiond.planner.pack.packing import Packing
from tests.planner.build import gpu, in_mig, want

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
PROFILES = HARDWARE["a100-80gb"].mig_profiles
NAMES = tuple(p.name for p in PROFILES)
Spot = tuple[int, int, int]
"""Which of SIZES, first memory slice, memory slices."""
SPOTS: tuple[Spot, ...] = tuple(
    (i, s, size) for i, (_, _, size, starts, _) in enumerate(SIZES) for s in starts
)
Counts = tuple[int, ...]
counts_of = st.tuples(*(st.integers(0, most + 1) for *_, most in SIZES))
occupations = st.sets(st.integers(0, 7), max_size=6).map(lambda s: tuple(sorted(s)))


def covered(spot: Spot) -> frozenset[int]:
    return frozenset(range(spot[1], spot[1] + spot[2]))


def number(spots: list[Spot]) -> Counts:
    """How many there are of each size."""
    return tuple(sum(s[0] == i for s in spots) for i in range(len(SIZES)))


@dataclasses.dataclass(frozen=True)
class Found:
    """An instance that exists, and whose it is."""

    spot: Spot
    ours: bool
    busy: bool
    whole: bool

    @property
    def stays(self) -> bool:
        return self.busy or not self.ours


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU with instances on it, and slices that others took."""

    there: tuple[Found, ...] = ()
    occupied: tuple[int, ...] = ()
    fixed: bool = False

    def device(self, name: str = "gpu-0", **changes: object) -> Device:
        """The GPU as it would be discovered."""
        instances = tuple(
            MigInstance(
                NAMES[f.spot[0]], f.spot[1], f.spot[2], PROFILES[f.spot[0]].memory_bytes,
                f"MIG-{name}-{n}" if f.whole else "", f.busy,
            )
            for n, f in enumerate(self.there)
        )  # fmt: skip
        others = {s for f in self.there if not f.ours for s in covered(f.spot)}
        values = {
            "modes": (SharingMode.MIG,),
            "mig_instances": instances,
            "mig_fixed": self.fixed,
            "occupied_slices": tuple(sorted({*others, *self.occupied})),
            **changes,
        }
        return gpu(name, **values)  # type: ignore[arg-type]

    @functools.cached_property
    def sets(self) -> frozenset[Counts]:
        """Counts of everything that replicas can be put into, by trying every place."""
        usable = {f.spot for f in self.there if f.whole and not f.busy}
        staying = [f.spot for f in self.there if f.stays]
        taken = frozenset(self.occupied).union(*map(covered, staying))
        spots = [s for s in SPOTS if s in usable or not (self.fixed or covered(s) & taken)]
        found: set[Counts] = set()

        def go(position: int, taken: frozenset[int], chosen: list[Spot]) -> None:
            total = number([*chosen, *(s for s in staying if s not in chosen)])
            if any(n > size[4] for n, size in zip(total, SIZES, strict=True)):
                return
            found.add(number(chosen))
            for n in range(position, len(spots)):
                if not taken & covered(spots[n]):
                    go(n + 1, taken | covered(spots[n]), [*chosen, spots[n]])

        go(0, frozenset(), [])
        return frozenset(found)


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    """Instances that a driver could have made, and slices beside them."""
    found: list[Found] = []
    for spot in draw(st.lists(st.sampled_from(SPOTS), max_size=8)):
        one = Found(
            spot,
            ours=draw(st.booleans()),
            busy=draw(st.sampled_from([False, False, True])),
            whole=draw(st.sampled_from([True, True, True, False])),
        )
        same = number([f.spot for f in found])[spot[0]]
        if same < SIZES[spot[0]][4] and not any(covered(spot) & covered(f.spot) for f in found):
            found.append(one)
    free = {*range(8)}.difference(*(covered(f.spot) for f in found))
    return Gpu(
        tuple(found),
        tuple(s for s in draw(st.sampled_from([(), (), draw(occupations)])) if s in free),
        draw(st.booleans()),
    )


def geometry(of: Device) -> Geometry:
    found = geometry_on(of)
    assert found is not None
    return found


def by_name(counts: Counts) -> dict[str, int]:
    return dict(zip(NAMES, counts, strict=True))


def on_slice(model: str, rate: float, name: str) -> Candidate:
    """A candidate that is small enough for any instance."""
    return dataclasses.replace(in_mig(model, rate, name), busy=1.0)


def test_an_empty_gpu_holds_exactly_what_can_be_placed() -> None:
    for hardware in KINDS:
        listed = HARDWARE[hardware].mig_profiles
        for profile, (_, compute, memory, starts, most) in zip(listed, SIZES, strict=True):
            assert (profile.compute_slices, profile.memory_slices) == (compute, memory)
            assert (starts_of(profile), profile.max_instances) == (starts, most)
        found = geometry_of(hardware, ())
        assert found is not None
        assert set(found.sets) == Gpu().sets


@settings(max_examples=100)
@given(
    gpus(), counts_of, st.lists(st.sampled_from(NAMES), max_size=8), st.none() | st.integers(1, 7)
)
def test_a_gpu_holds_exactly_what_can_be_placed_beside_what_exists(
    there: Gpu, counts: Counts, chosen: list[str], most: int | None
) -> None:
    """By its table, and one replica after the other by its packing."""
    known = geometry(there.device())
    assert set(known.sets) == there.sets
    for asked in (counts, *itertools.islice(sorted(there.sets, reverse=True), 20)):
        places = known.places(by_name(asked))
        assert (places is not None) == (asked in there.sets)
        code = known.code(by_name(asked))
        assert (code is not None and known.holds(code)) == (asked in there.sets)
        _apart(places or [], there.occupied)
    model = want("m", *(on_slice("m", 1, name) for name in NAMES), rate=1)
    instance = build_instance(PlanRequest((there.device(max_replicas=most),), (model,)))
    items = {instance.items[i].mig_profile: i for f in instance.groups[0].fits for i in f}
    numbers = collections.Counter(chosen)
    placeable = tuple(numbers[n] for n in NAMES) in there.sets and len(chosen) <= (most or 7)
    packing, held = Packing(instance), True
    for name in chosen:
        held = held and name in items and packing.fits(0, items[name], 0)
        if held:
            packing.add(0, items[name], 0)
    assert held == placeable
    if held and chosen:
        assert packing.best_option(0, [items[name] for name in chosen]) == 0
        packing.remove(0, items[chosen[0]])
        assert packing.fits(0, items[chosen[0]], 0)


def _apart(places: list[Place], occupied: tuple[int, ...] = ()) -> None:
    """No slice is given twice, and none that others took."""
    slices = [s for _, start, size in places for s in range(start, start + size)]
    assert len({*slices, *occupied}) == len(slices) + len(occupied)


@settings(max_examples=150)
@given(st.data(), occupations)
def test_what_runs_stays_wherever_any_arrangement_lets_it(
    data: st.DataObject, occupied: tuple[int, ...]
) -> None:
    """And where not all of it can, the most bytes stay in their instances."""
    there = Gpu(occupied=occupied)
    known, sets = geometry(there.device()), sorted(there.sets)
    first = itertools.islice(arrangements(data.draw(st.sampled_from(sets)), occupied), 40)
    running = data.draw(st.sampled_from(list(first)))
    kept = tuple(place for place in running if data.draw(st.booleans()))
    wanted = data.draw(st.sampled_from(sets))
    every = [set(places) for places in arrangements(wanted, occupied)]
    found = known.places(by_name(wanted), kept)
    assert (found is not None) == any(places >= {*kept} for places in every)
    if found is not None:
        assert {*found} >= {*kept}
        _apart(found, occupied)

    wishes = []
    for name, count in by_name(wanted).items():
        mine = [place for place in running if place[0] == name]
        for n in range(count):
            size = data.draw(st.integers(0, 3))
            wishes.append(SliceWish(name, mine[n] if n < len(mine) else None, size))
    places = choose_slices(known, wishes)
    assert [place[0] for place in places] == [wish.mig_profile for wish in wishes]
    _apart(places, occupied)
    stays = sum(1 + w.load_bytes for w, p in zip(wishes, places, strict=True) if w.kept == p)
    assert stays == max(sum(1 + w.load_bytes for w in wishes if w.kept in one) for one in every)


def arrangements(counts: Counts, occupied: tuple[int, ...]) -> Iterator[tuple[Place, ...]]:
    """Every way to place a set."""
    wanted = [i for i, n in enumerate(counts) for _ in range(n)]

    def go(n: int, taken: frozenset[int], least: int) -> Iterator[tuple[Place, ...]]:
        if n == len(wanted):
            yield ()
            return
        i = wanted[n]
        for start in SIZES[i][3]:
            spot = (i, start, SIZES[i][2])
            # Equal ones in ascending order: each arrangement once.
            if taken & covered(spot) or (n > 0 and wanted[n - 1] == i and start < least):
                continue
            for rest in go(n + 1, taken | covered(spot), start):
                yield ((NAMES[i], start, SIZES[i][2]), *rest)

    return go(0, frozenset(occupied), 0)


SMALL, LARGE = (Gpu((Found(s, ours=False, busy=False, whole=True),), fixed=True)
                for s in ((0, 0, 1), (4, 0, 4)))  # fmt: skip


def test_alike_gpus_with_different_instances_are_not_interchangeable() -> None:
    devices = SMALL.device(), LARGE.device("gpu-1"), LARGE.device("gpu-2")
    model = want("m", on_slice("m", 1, NAMES[4]), rate=2)
    instance = build_instance(PlanRequest(devices, (model,)))
    assert sorted(group.bins for group in instance.groups) == [(0,), (1, 2)]
    plan = solve(PlanRequest(devices, (model,), time_limit_seconds=2))
    assert isinstance(plan, Plan)
    assert {p.partition for p in plan.placements} == {
        MigSlice(d, Bytes(4 * GIB), NAMES[4], 0, 4) for d in ("gpu-1", "gpu-2")
    }


def refused(device: Device, candidate: Candidate) -> Infeasible | None:
    """Why the device takes no such replica."""
    models = (want("m", candidate, rate=1),)
    answer = solve(PlanRequest((device,), models, time_limit_seconds=2))
    return answer if isinstance(answer, Infeasible) else None


def test_an_instance_that_is_too_small_or_is_not_there_is_the_reason() -> None:
    small = on_slice("m", 1, NAMES[0])
    room = instance_bytes(PROFILES[0])
    for size in (room // 2**20 * 2**20, room + 1):
        sized = dataclasses.replace(small, memory_bytes=Bytes(size))
        assert (refused(Gpu().device(), sized) is None) == (size <= room)
    there = SMALL.device().mig_instances[0]
    short = (dataclasses.replace(there, memory_bytes=Bytes(4 * GIB)),)
    for device, words in (
        (SMALL.device(mig_instances=short), ("m needs 4", "an instance of 1g.10gb has")),
        (Gpu(fixed=True).device(), ("may not be cut anew", "no idle instance there")),
        (
            SMALL.device(mig_instances=(dataclasses.replace(there, busy=True),)),
            ("may not be cut anew", "no idle instance there"),
        ),
    ):
        answer = refused(device, small)
        assert answer is not None
        assert all(word in answer.reasons[0] for word in words)
        assert ("gpu.mig_changes" in answer.remedies[0]) == ("may not" in words[0])


def test_sizes_that_the_driver_lists_go_before_the_catalog() -> None:
    listed = dataclasses.replace(PROFILES[3], name="2g.24gb", starts=(4,))
    known = geometry(Gpu().device(mig_profiles=(listed,)))
    assert known.places({"2g.24gb": 1}) == [("2g.24gb", 4, 2)]
    assert known.places({"2g.24gb": 2}) is None
    assert known.index(PROFILES[3].name) is None
