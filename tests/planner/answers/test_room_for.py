"""The obstacles to one more replica match the checker, which shares no code with them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import Isolation, PlacementRules, Slo
from partitiond.core.performance.interference import DEFAULT, level_of, sigma
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.planner.answers.room_for import Blocker, Neighbours, blocker, most_alone
from partitiond.planner.check.devices import check_device
from partitiond.planner.check.figures import level_together
from tests.planner.build import cpu, gpu, on_cores, point, want
from tests.planner.check.make import placed


def around(here: list[Placement], *demands: ModelDemand, spare: float = math.inf) -> Neighbours:
    known = {d.model: d for d in demands}
    held = {"gpu-0": [p.candidate for p in here]} if here else {}
    return Neighbours(held, known, dict.fromkeys(known, spare), DEFAULT)


def stop(
    candidate: Candidate, here: list[Placement], *demands: ModelDemand, **device: object
) -> Blocker | None:
    return blocker(gpu("gpu-0", **device), candidate, around(here, *demands))  # type: ignore[arg-type]


SMALL = point("a", 5, 10, sm=20)
OTHER = point("b", 5, 10, sm=20)
A, B = want("a", SMALL, rate=5), want("b", OTHER, rate=5)
A_BY_HARDWARE = want("a", SMALL, isolation=Isolation.HARDWARE)
B_ALONE = want("b", OTHER, isolation=Isolation.DEVICE)
B_ELSEWHERE = want("b", OTHER, isolation_group="x")
B_AVOIDS_A = want("b", OTHER, rules=PlacementRules(avoid=("a",)))


def test_each_thing_that_can_stop_it_is_named() -> None:
    for kind, found in (
        ("cordoned", stop(SMALL, [], A, cordoned=True)),
        ("hardware", stop(SMALL, [], A, hardware="l4-24gb")),
        ("memory", stop(SMALL, [placed(point("b", 1, 75, sm=10), 1)], A, B)),
        ("SMs", stop(SMALL, [placed(point("b", 1, 10, sm=90), 1)], A, B)),
        ("mode", stop(SMALL, [placed(point("b", 1, 10), 1)], A, B)),
        ("mode", stop(SMALL, [], A, modes=(SharingMode.MEMORY,))),
        ("replicas", stop(SMALL, [placed(OTHER, 1)], A, B, max_replicas=1)),
        ("isolation", stop(SMALL, [placed(OTHER, 1)], A, B_ALONE)),
        ("isolation", stop(SMALL, [placed(OTHER, 1)], A_BY_HARDWARE, B)),
        ("avoid", stop(SMALL, [placed(OTHER, 1)], A, B_AVOIDS_A)),
        ("group", stop(SMALL, [placed(OTHER, 1)], A, B_ELSEWHERE)),
        ("group", stop(SMALL, [], A, mps_group="x")),
        ("only_on", stop(SMALL, [], want("a", SMALL, rules=PlacementRules(only_on=("gpu-9",))))),
    ):
        assert found is not None
        assert found.kind == kind
        assert "gpu-0" in found.what or kind == "isolation"


def test_a_neighbour_that_would_miss_its_slo_or_its_demand_stops_it() -> None:
    assert stop(SMALL, [], A) is None
    tight = want("b", OTHER, rate=5, slo=Slo(0.1001, 0.01001))
    found = stop(SMALL, [placed(OTHER, 1)], A, tight)
    assert found is not None
    assert "b on gpu-0 would miss its SLO" in found.what
    full = blocker(gpu("gpu-0"), SMALL, around([placed(OTHER, 1)], A, B, spare=0.0))
    assert full is not None
    assert "fall below its demand" in full.what
    two = on_cores("a", 3, 2)
    found = blocker(cpu(1), two, around([], want("a", two)))
    assert found is not None
    assert (found.kind, found.what) == ("cores", "cpu has 1 cores free, it needs 2")


sizes = st.builds(
    lambda model, gib, sm, busy: point(model, 5, gib, sm=sm, busy=busy),
    st.sampled_from("abc"),
    st.integers(1, 60),
    st.sampled_from([0, 10, 25, 50]),
    st.sampled_from([0.0, 0.3, 0.8]),
)


@settings(max_examples=300)
@given(st.lists(sizes, max_size=5), sizes, st.sampled_from([None, 2, 4]))
def test_it_fits_exactly_where_the_checker_finds_nothing_wrong(
    held: list[Candidate], candidate: Candidate, most: int | None
) -> None:
    device = gpu("gpu-0", max_replicas=most)
    demands = {m: want(m, candidate) for m in "abc"}
    here = [placed(c, n) for n, c in enumerate(held)]
    if _wrong(device, here, demands):
        return
    fits = blocker(device, candidate, around(here, *demands.values())) is None
    together = [*here, placed(candidate, len(here))]
    assert fits == (not _wrong(device, together, demands))


def _wrong(device: Device, here: list[Placement], demands: dict[str, ModelDemand]) -> list[str]:
    if not here:
        return []
    mode = here[0].partition.mode
    slowed = sigma(mode, [p.candidate.busy for p in here])
    return list(check_device(device, tuple(here), demands, level_of(mode, slowed)))


def test_the_most_of_one_size_that_a_device_takes() -> None:
    def together(size: Candidate, count: int) -> float:
        level = level_together([size] * count, DEFAULT)
        assert level is not None
        return count * size.capacity_req_per_s / level

    assert most_alone(gpu(), A, SMALL, DEFAULT) == together(SMALL, 5), "by its SMs"
    large = point("a", 5, 30, sm=10)
    assert most_alone(gpu(), want("a", large), large, DEFAULT) == together(large, 2), "by memory"
    alone = want("a", SMALL, isolation=Isolation.DEVICE)
    assert most_alone(gpu(), alone, SMALL, DEFAULT) == 5.0
    assert most_alone(gpu(cordoned=True), A, SMALL, DEFAULT) == 0.0
