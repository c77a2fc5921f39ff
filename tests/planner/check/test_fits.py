"""One more replica comes where the checker has nothing against it, and else its reason is told."""

from collections.abc import Sequence

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import Isolation, PlacementRules, Slo
from partitiond.core.performance.interference import DEFAULT
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.core.units import GIB
from partitiond.planner.check.fault import Fault, Kind
from partitiond.planner.check.figures import level_together
from partitiond.planner.check.fits import Fits, most_alone
from tests.planner.build import cpu, gpu, in_mig, on_cores, point, want
from tests.planner.check.make import placed

SMALL, OTHER = point("a", 5, 10, sm=20), point("b", 5, 10, sm=20)
A, B = want("a", SMALL, rate=5), want("b", OTHER, rate=5)
A_NEAR_B = want("a", SMALL, rules=PlacementRules(near=("b",)))
A_ELSEWHERE = want("a", SMALL, rules=PlacementRules(only_on=("gpu-9",)))
B_ALONE = want("b", OTHER, isolation=Isolation.DEVICE)
B_AVOIDS_A = want("b", OTHER, rules=PlacementRules(avoid=("a",)))
B_OF_OTHERS = want("b", OTHER, isolation_group="x")
B_IN_TIME = want("b", OTHER, slo=Slo(0.1001, 0.01001))
MIG = (SharingMode.MIG,)


def one_more(
    candidate: Candidate,
    here: Sequence[Placement],
    *demands: ModelDemand,
    on: Device | None = None,
    b_has: float = 9.0,
    memory: int | None = None,
    **device: object,
) -> Placement | Fault:
    """A place for one more on the device, or what stops it there."""
    there = on or gpu("gpu-0", **device)  # type: ignore[arg-type]
    fits = Fits(
        (there,),
        {d.model: d for d in demands},
        DEFAULT,
        {} if memory is None else {there.host: memory},
        placements=here,
        rates={"b": b_has},
    )
    return fits.place(candidate, there)


def test_each_thing_that_can_stop_it_is_named() -> None:
    beside_b, two = [placed(OTHER, 1)], on_cores("a", 3, 2)
    slice_, whole = in_mig("a", 5, "1g.10gb"), in_mig("b", 5, "7g.80gb")
    for kind, found in (
        (Kind.CORDONED, one_more(SMALL, [], A, cordoned=True)),
        (Kind.HARDWARE, one_more(SMALL, [], A, hardware="l4-24gb")),
        (Kind.MEMORY, one_more(SMALL, [placed(point("b", 1, 75, sm=10), 1)], A, B)),
        (Kind.SMS, one_more(SMALL, [placed(point("b", 1, 10, sm=90), 1)], A, B)),
        (Kind.MODE, one_more(SMALL, [placed(point("b", 1, 10), 1)], A, B)),
        (Kind.REPLICAS, one_more(SMALL, beside_b, A, B, max_replicas=1)),
        (Kind.ISOLATION, one_more(SMALL, beside_b, A, B_ALONE)),
        (Kind.AVOID, one_more(SMALL, beside_b, A, B_AVOIDS_A)),
        (Kind.NEAR, one_more(SMALL, [], A_NEAR_B, B)),
        (Kind.GROUP, one_more(SMALL, beside_b, A, B_OF_OTHERS)),
        (Kind.GROUP, one_more(SMALL, [], A, mps_group="x")),
        (Kind.ONLY_ON, one_more(SMALL, [], A_ELSEWHERE)),
        (Kind.CORES, one_more(two, [], want("a", two), on=cpu(1))),
        (Kind.HOST, one_more(point("a", 5, 10, sm=20, host_gib=6), [], A, memory=5 * GIB)),
        (Kind.SLICES, one_more(slice_, [placed(whole, 1)], A, B, modes=MIG)),
        (Kind.FIXED, one_more(slice_, [], A, modes=MIG, mig_fixed=True)),
        (Kind.SLO, one_more(SMALL, beside_b, A, B_IN_TIME)),
        (Kind.INTERFERENCE, one_more(SMALL, beside_b, A, B, b_has=5.0)),
    ):  # fmt: skip
        assert isinstance(found, Fault), kind
        assert found.kind is kind, found


def test_it_comes_beside_what_is_there() -> None:
    assert isinstance(one_more(SMALL, [placed(OTHER, 1)], A, B), Placement)
    beside = placed(on_cores("b", 3, 1), 1, "cpu")
    two = on_cores("a", 3, 2)
    on_free = one_more(two, [beside], want("a", two), B, on=cpu(3))
    assert isinstance(on_free, Placement)
    assert on_free.partition.cores == (1, 2)  # type: ignore[union-attr]
    slice_ = in_mig("a", 5, "1g.10gb")
    cut = one_more(slice_, [placed(in_mig("b", 5, "1g.10gb"), 1)], A, B, modes=MIG)
    assert isinstance(cut, Placement)
    assert cut.partition.slice_start == 1  # type: ignore[union-attr]


def test_the_size_that_comes_closest_to_fitting_is_the_reason() -> None:
    sizes = [point("a", 5, gib, sm=10) for gib in (200, 90, 300)]
    demand = want("a", *sizes, point("a", 5, 10, hardware="l4-24gb"))
    fits = Fits((gpu("gpu-0"),), {"a": demand}, DEFAULT, {})
    stop = fits.closest((gpu("gpu-0"),), demand)
    assert stop is not None
    assert (stop.kind, "needs 90" in stop.text) == (Kind.MEMORY, True)
    alike = (gpu("g0"), gpu("g1", host="x", cores=(7, 8)), gpu("g2", gib=40))
    assert [d.id for d in Fits(alike, {"a": A}, DEFAULT, {}).unlike(A)] == ["g0", "g1", "g2"]
    twice = gpu("g0"), gpu("g1", host="other")
    assert len(Fits(twice, {"a": A}, DEFAULT, {}).unlike(A)) == 1
    assert len(Fits(twice, {"a": A}, DEFAULT, {"other": GIB}).unlike(A)) == 2


def test_the_most_of_one_size_that_a_device_takes() -> None:
    def together(size: Candidate, count: int) -> float:
        level = level_together([size] * count, DEFAULT)
        assert level is not None
        return count * size.capacity_req_per_s / level

    large = point("a", 5, 30, sm=10)
    for size, demand, device, most in (
        (SMALL, A, gpu(), together(SMALL, 5)),  # by its SMs
        (large, want("a", large), gpu(), together(large, 2)),  # by memory
        (SMALL, want("a", SMALL, isolation=Isolation.DEVICE), gpu(), 5.0),
        (SMALL, A, gpu(cordoned=True), 0.0),
    ):
        assert most_alone(device, demand, size, DEFAULT, {}) == most
