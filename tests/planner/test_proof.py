"""Proofs by trying all combinations."""

import dataclasses
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.interference import Interference
from partitiond.core.plan import Objective, Status
from partitiond.core.units import MIB
from partitiond.planner.arrays import build_problem
from partitiond.planner.bound import bound_goodput
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.improve import Improver, prices_of
from partitiond.planner.instance import Instance, PlanRequest, build_instance
from partitiond.planner.progress import Watch
from partitiond.planner.proof import can_prove, prove
from tests.planner.build import gpu, point, want

ALONE = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)


def improver(instance: Instance) -> Improver:
    problem = build_problem(instance)
    prices = prices_of(problem, bound_goodput(instance))
    found = Improver(problem, prices, by_cost=False, seed=1)
    found.start(None)
    return found


sizes = st.tuples(st.integers(5, 45), st.integers(1, 10), st.integers(1, 9))
asked = st.tuples(
    st.lists(sizes, min_size=1, max_size=3, unique=True),
    st.integers(2, 30),
    st.sampled_from([1, 3]),
)


@given(st.lists(asked, min_size=1, max_size=5), st.integers(1, 3), st.booleans())
@settings(max_examples=80)
def test_what_is_proven_the_best_is_what_cp_sat_proves(
    wanted: list[tuple[list[tuple[int, int, int]], int, int]], devices: int, weighted: bool
) -> None:
    models = tuple(
        want(
            f"m{i}",
            *(point(f"m{i}", r, gib, sm=5 * sm) for gib, sm, r in points),
            rate=rate,
            weight=weight if weighted else 1.0,
        )
        for i, (points, rate, weight) in enumerate(wanted)
    )
    fleet = tuple(gpu(f"g{i}", gib=80 if i < 2 else 40) for i in range(devices))
    request = PlanRequest(
        fleet, models, objective=Objective.MAX_GOODPUT, interference=ALONE, deterministic=True
    )
    instance = build_instance(request)
    assert can_prove(instance)
    proven = prove(Watch(instance), improver(instance), float("inf"))
    if proven is None:
        return
    exact = solve_exact(
        instance, Goal.GOODPUT, list(range(devices)), None, deterministic_seconds=20
    )
    assert exact.packing is not None
    assert exact.status is Status.OPTIMAL
    assert proven.packing is not None
    assert proven.status is Status.OPTIMAL
    assert proven.packing.goodput() == pytest.approx(exact.packing.goodput(), rel=1e-4)


def test_nothing_is_proven_where_devices_share_more_than_demands() -> None:
    models = (want("a", point("a", 5, 30, sm=10, host_gib=2), rate=50),)
    request = PlanRequest((gpu("g0"), gpu("g1")), models, host_memory_bytes=(("host", 10 * 2**30),))
    assert not can_prove(build_instance(request))
    alone = dataclasses.replace(request, host_memory_bytes=())
    assert can_prove(build_instance(alone))


def test_a_demand_of_thousands_of_replicas_is_given_up_in_little_memory() -> None:
    sizes = [point("m", rate, 5 + rate) for rate in range(1, 6)]
    models = (want("m", *sizes, rate=20_000),)
    request = PlanRequest(
        (gpu("g"),), models, objective=Objective.MAX_GOODPUT, interference=ALONE, deterministic=True
    )
    instance = build_instance(request)
    search = improver(instance)
    prove(Watch(instance), search, time.monotonic() + 5)  # what is compiled once is not counted
    tracemalloc.start()
    try:
        prove(Watch(instance), search, time.monotonic() + 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MIB
