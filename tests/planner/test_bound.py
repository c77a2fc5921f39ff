"""The bound by hand, and the cheapest covering set."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.interference import Interference
from partitiond.planner.bound import bound_cost, bound_goodput, cheapest_cover
from partitiond.planner.instance import PlanRequest, build_instance
from tests.planner.build import gpu, point, want

ALONE = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)


def test_memory_bounds_the_devices() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 30, sm=10), rate=5) for i in range(8))
    request = PlanRequest(tuple(gpu(f"g{i}") for i in range(8)), models, interference=ALONE)
    assert bound_cost(build_instance(request)).value == 3


def test_demand_beyond_all_devices_is_proven_impossible() -> None:
    request = PlanRequest((gpu(),), (want("a", point("a", 5, 30, sm=50), rate=11),))
    assert bound_cost(build_instance(request)).value is None


def test_goodput_is_bounded_by_what_devices_hold() -> None:
    request = PlanRequest(
        (gpu(),), (want("a", point("a", 5, 30, sm=50), rate=100),), interference=ALONE
    )
    value = bound_goodput(build_instance(request)).value
    assert value is not None
    assert 10 <= value < 10.001


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(1, 30)), min_size=1, max_size=3, unique=True),
    st.integers(0, 90),
    st.integers(0, 3),
)
def test_no_covering_set_is_cheaper(
    ways: list[tuple[float, int]], rate: int, replicas: int
) -> None:
    least = cheapest_cover(ways, rate, replicas)
    for counts in itertools.product(range(7), repeat=len(ways)):
        covered = sum(n * each for n, (_, each) in zip(counts, ways, strict=True))
        if covered >= rate and sum(counts) >= replicas:
            price = sum(n * cost for n, (cost, _) in zip(counts, ways, strict=True))
            assert least <= price + 1e-9
