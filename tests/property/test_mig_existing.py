"""Geometry beside existing instances agrees with trying every placement."""

import dataclasses
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, MigInstance, SharingMode
from partitiond.core.hardware.partition import MigSlice, PartitionSize
from partitiond.core.mig.geometry import geometry_on, starts_of
from partitiond.core.plan.record import Candidate, Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.core.units import GIB, Bytes
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PRICE_SCALE, PlanRequest
from tests.planner.build import gpu, point, want
from tests.property.test_mig_geometry import SIZES, table

PROFILES = table("a100-80gb").profiles
NAMES = tuple(p.name for p in PROFILES)
SPOTS = tuple((i, s, size) for i, (_, _, size, starts, _) in enumerate(SIZES) for s in starts)


@dataclasses.dataclass(frozen=True)
class Found:
    """An instance that exists: which of SPOTS, and whose it is."""

    spot: tuple[int, int, int]
    ours: bool
    busy: bool
    whole: bool

    @property
    def slices(self) -> frozenset[int]:
        return frozenset(range(self.spot[1], self.spot[1] + self.spot[2]))

    @property
    def stays(self) -> bool:
        return self.busy or not self.ours

    @property
    def usable(self) -> bool:
        return self.whole and not self.busy


@st.composite
def existing(draw: st.DrawFn) -> tuple[Found, ...]:
    """Instances that a driver could have made."""
    found: list[Found] = []
    for spot in draw(st.lists(st.sampled_from(SPOTS), max_size=8)):
        one = Found(
            spot,
            ours=draw(st.booleans()),
            busy=draw(st.sampled_from([False, False, True])),
            whole=draw(st.sampled_from([True, True, True, False])),
        )
        count = sum(f.spot[0] == spot[0] for f in found)
        if count < SIZES[spot[0]][4] and not any(one.slices & f.slices for f in found):
            found.append(one)
    return tuple(found)


def device_of(there: tuple[Found, ...], *, fixed: bool, name: str = "gpu-0") -> Device:
    """The GPU as it would be discovered."""
    instances = tuple(
        MigInstance(
            mig_profile=NAMES[f.spot[0]],
            slice_start=f.spot[1],
            slice_count=f.spot[2],
            memory_bytes=PROFILES[f.spot[0]].memory_bytes,
            uuid=f"MIG-{name}-{n}" if f.whole else "",
            busy=f.busy,
        )
        for n, f in enumerate(there)
    )
    others = sorted(s for f in there if not f.ours for s in f.slices)
    return dataclasses.replace(
        gpu(name, modes=(SharingMode.MIG,)),
        mig_instances=instances,
        mig_fixed=fixed,
        occupied_slices=tuple(others),
    )


def sets_beside(there: tuple[Found, ...], *, fixed: bool) -> set[tuple[int, ...]]:
    """Counts by size of everything that replicas can be put into, by trying every place."""
    usable = {f.spot: f for f in there if f.usable}
    staying = [f for f in there if f.stays]
    found: set[tuple[int, ...]] = set()

    def allowed(spot: tuple[int, int, int]) -> bool:
        covered = frozenset(range(spot[1], spot[1] + spot[2]))
        return spot in usable or (not fixed and not any(covered & f.slices for f in staying))

    spots = [s for s in SPOTS if allowed(s)]

    def go(position: int, taken: frozenset[int], chosen: tuple[tuple[int, int, int], ...]) -> None:
        rest = [f.spot for f in staying if f.spot not in chosen]
        total = [sum(s[0] == i for s in (*chosen, *rest)) for i in range(len(SIZES))]
        if any(n > size[4] for n, size in zip(total, SIZES, strict=True)):
            return
        found.add(tuple(sum(s[0] == i for s in chosen) for i in range(len(SIZES))))
        for n in range(position, len(spots)):
            covered = frozenset(range(spots[n][1], spots[n][1] + spots[n][2]))
            if not taken & covered:
                go(n + 1, taken | covered, (*chosen, spots[n]))

    go(0, frozenset(), ())
    return found


@settings(max_examples=40)
@given(there=existing(), fixed=st.booleans())
def test_a_gpu_holds_exactly_what_can_be_placed_beside_what_exists(
    there: tuple[Found, ...], fixed: bool
) -> None:
    geometry = geometry_on(device_of(there, fixed=fixed))
    assert geometry is not None
    expected = sets_beside(there, fixed=fixed)
    assert set(geometry.sets) == expected
    for counts in itertools.islice(sorted(expected, reverse=True), 20):
        wanted = dict(zip(NAMES, counts, strict=True))
        places = geometry.places(wanted)
        assert places is not None
        covered = [s for _, start, size in places for s in range(start, start + size)]
        assert len(covered) == len(set(covered))


@dataclasses.dataclass(frozen=True)
class Case:
    """GPUs with instances on them, and models that want some."""

    there: tuple[tuple[Found, ...], ...]
    fixed: tuple[bool, ...]
    prices: tuple[float, ...]
    models: tuple[ModelDemand, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(
            dataclasses.replace(device_of(t, fixed=f, name=f"gpu-{n}"), price_per_hour=price)
            for n, (t, f, price) in enumerate(zip(self.there, self.fixed, self.prices, strict=True))
        )


def on_slice(model: str, rate: float, name: str) -> Candidate:
    found = point(model, rate, 4, mode=SharingMode.MIG, busy=1.0)
    return dataclasses.replace(found, size=PartitionSize(SharingMode.MIG, 1, 100, name))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    number = draw(st.integers(1, 2))
    models = []
    for n in range(draw(st.integers(1, 3))):
        sizes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
        rates = [draw(st.integers(1, 4)) for _ in sizes]
        candidates = [on_slice(f"m{n}", r, name) for r, name in zip(rates, sizes, strict=True)]
        models.append(want(f"m{n}", *candidates, rate=draw(st.integers(1, 7))))
    return Case(
        there=tuple(draw(existing()) for _ in range(number)),
        fixed=tuple(draw(st.sampled_from([True, True, False])) for _ in range(number)),
        prices=tuple(draw(st.sampled_from([1.0, 2.0])) for _ in range(number)),
        models=tuple(models),
    )


def least_price(case: Case) -> float | None:
    """The least price by trying every set on every device; None where nothing serves all."""

    def loads(there: tuple[Found, ...], fixed: bool) -> set[tuple[float, ...]]:
        found: set[tuple[float, ...]] = set()
        choices = [(n, c) for n, model in enumerate(case.models) for c in model.candidates]
        sets = sets_beside(there, fixed=fixed)
        most = [max(s[i] for s in sets) for i in range(len(SIZES))]
        ranges = [range(most[NAMES.index(c.size.mig_profile)] + 1) for _, c in choices]
        for counts in itertools.product(*ranges):
            total = [0] * len(SIZES)
            rates = [0.0] * len(case.models)
            for (n, c), count in zip(choices, counts, strict=True):
                total[NAMES.index(c.size.mig_profile)] += count
                wanted = case.models[n].demand.req_per_s or 0.0
                rates[n] = min(wanted, rates[n] + count * c.capacity_req_per_s)
            if tuple(total) in sets:
                found.add(tuple(rates))
        return found

    best: float | None = None
    each = [loads(t, f) for t, f in zip(case.there, case.fixed, strict=True)]
    for chosen in itertools.product(*each):
        total = [sum(rates) for rates in zip(*chosen, strict=True)]
        if all(t >= (m.demand.req_per_s or 0) for t, m in zip(total, case.models, strict=True)):
            price = sum(p for p, r in zip(case.prices, chosen, strict=True) if any(r))
            best = price if best is None else min(best, price)
    return best


@settings(max_examples=25)
@given(case=cases())
def test_the_optimum_on_such_gpus_is_that_of_trying_everything(case: Case) -> None:
    request = PlanRequest(case.devices, case.models, objective=Objective.MIN_PRICE)
    instance = build_instance(request)
    expected = least_price(case)
    if instance.hopeless:
        assert expected is None
        return
    found = solve_exact(
        instance, Goal.COST, list(range(len(case.devices))), None, deterministic_seconds=5
    )
    assert (found.status is Status.INFEASIBLE) == (expected is None)
    if found.packing is not None and expected is not None:
        assert found.packing.cost_units() == round(expected * PRICE_SCALE)


@settings(max_examples=12)
@given(case=cases())
def test_plans_on_such_gpus_pass_the_check_and_stay(case: Case) -> None:
    request = PlanRequest(
        case.devices, case.models, objective=Objective.MIN_PRICE, deterministic=True
    )
    plan = solve(request)
    if not isinstance(plan, Plan):
        return
    assert check_plan(plan, case.models) == ()
    again = solve(dataclasses.replace(request, running=plan.placements))
    assert isinstance(again, Plan)
    assert {p.replica_id: p.partition for p in again.placements} == {
        p.replica_id: p.partition for p in plan.placements
    }


def test_alike_gpus_with_different_instances_are_not_interchangeable() -> None:
    small = (Found((0, 0, 1), ours=False, busy=False, whole=True),)
    large = (Found((4, 0, 4), ours=False, busy=False, whole=True),)
    devices = (
        device_of(small, fixed=True, name="gpu-0"),
        device_of(large, fixed=True, name="gpu-1"),
        device_of(large, fixed=True, name="gpu-2"),
    )
    model = want("m", on_slice("m", 1, NAMES[4]), rate=2)
    instance = build_instance(PlanRequest(devices, (model,)))
    assert sorted(group.bins for group in instance.groups) == [(0,), (1, 2)]
    plan = solve(PlanRequest(devices, (model,), time_limit_seconds=2))
    assert isinstance(plan, Plan)
    assert {p.device_id for p in plan.placements} == {"gpu-1", "gpu-2"}
    assert {p.partition for p in plan.placements} == {
        MigSlice(d, Bytes(4 * GIB), NAMES[4], 0, 4) for d in ("gpu-1", "gpu-2")
    }


def test_an_existing_instance_with_less_memory_counts_with_what_it_has() -> None:
    there = (Found((0, 0, 1), ours=False, busy=False, whole=True),)
    device = device_of(there, fixed=True)
    short = dataclasses.replace(device.mig_instances[0], memory_bytes=Bytes(4 * GIB))
    device = dataclasses.replace(device, mig_instances=(short,))
    model = want("m", on_slice("m", 1, NAMES[0]), rate=1)
    outcome = solve(PlanRequest((device,), (model,), time_limit_seconds=2))
    assert isinstance(outcome, Infeasible)
    assert "1g.10gb on gpu-0 has" in outcome.reasons[0]
    assert "it needs 4" in outcome.reasons[0]


def test_a_fixed_gpu_without_an_idle_instance_says_so() -> None:
    model = want("m", on_slice("m", 1, NAMES[0]), rate=1)
    busy = (Found((0, 0, 1), ours=False, busy=True, whole=True),)
    for there, words in (((), "has no instance of 1g.10gb"), (busy, "others use its instances")):
        device = device_of(there, fixed=True)
        outcome = solve(PlanRequest((device,), (model,), time_limit_seconds=2))
        assert isinstance(outcome, Infeasible)
        assert "may not be cut anew" in outcome.reasons[0]
        assert words in outcome.reasons[0]
        assert "gpu.mig_changes" in outcome.remedies[0]


def test_sizes_that_the_driver_lists_go_before_the_catalog() -> None:
    listed = dataclasses.replace(PROFILES[3], name="2g.24gb", starts=(4,))
    device = dataclasses.replace(device_of((), fixed=False), mig_profiles=(listed,))
    geometry = geometry_on(device)
    assert geometry is not None
    assert geometry.places({"2g.24gb": 1}) == [("2g.24gb", 4, 2)]
    assert geometry.places({"2g.24gb": 2}) is None
    assert geometry.index(PROFILES[3].name) is None
    assert starts_of(PROFILES[3]) == (0, 2, 4)
