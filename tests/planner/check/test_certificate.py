"""A certificate claims only what the plan's own figures bear out."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import Isolation, PlacementRules, Slo
from partitiond.core.plan import record
from partitiond.core.plan.record import ModelDemand, Objective, Placement, PriorityProof, Status
from partitiond.core.units import GIB, Bytes
from partitiond.planner.check import Before
from tests.planner.build import gpu, in_mig, point, want
from tests.planner.check.make import bytes_more, lines, placed, said

A, B = point("a", 6, 10, watts=100.0), point("b", 3, 10, watts=50.0)
MODELS = want("a", A, rate=4.0), want("b", B, rate=2.0)
ANY_RATE = want("a", A), want("b", B)
TOO_LARGE = want("a", bytes_more(A, 999 * GIB), rate=4.0), MODELS[1]
FLEET = (
    gpu("g0", price_per_hour=1.5, idle_watts=60.0, max_watts=300.0),
    gpu("g1", price_per_hour=0.25, idle_watts=40.0, max_watts=200.0, host="h1"),
    gpu("g2", price_per_hour=9.0, idle_watts=9.0, max_watts=9.0),
)
APART = placed(A, on="g0"), placed(B, on="g1")
TOGETHER = placed(A, on="g0"), placed(B, on="g0")
TWICE = placed(A, 1, "g0"), placed(A, 2, "g1"), placed(B, 1, "g1")

DEVICES, PRICE, ENERGY = Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MIN_ENERGY
GOODPUT, MAX_MIN = Objective.MAX_GOODPUT, Objective.MAX_MIN
COSTS = [o for o in Objective if o.is_cost]


def asking(rate: float | None, weight: float = 1.0, **more: object) -> tuple[ModelDemand, ...]:
    """The models, with this asked of the first."""
    demand = dataclasses.replace(MODELS[0].demand, req_per_s=rate, weight=weight)
    return dataclasses.replace(MODELS[0], demand=demand, **more), MODELS[1]  # type: ignore[arg-type]


def claims(
    objective: Objective,
    value: float,
    models: Sequence[ModelDemand] = MODELS,
    where: Sequence[Placement] = APART,
    devices: Sequence[Device] = FLEET,
    **more: object,
) -> tuple[str, ...]:
    """What is said of a certificate that claims this value, and proves it where not told."""
    more = {"unplaced": None, **more}
    return said(devices, where, models, objective=objective, value=value, **more)  # type: ignore[arg-type]


# -- the value of each objective ------------------------------------------------------------


def test_the_value_is_that_of_the_objective() -> None:
    for objective, value, models, where in (
        (DEVICES, 1.0, MODELS, TOGETHER),
        (PRICE, 1.75, MODELS, APART),
        (PRICE, 1.5, MODELS, TOGETHER),
        # 60 + 40 idle, and 100 W for 4 of 6, 50 W for 2 of 3 requests/s.
        (ENERGY, 200.0, MODELS, APART),
        # Twice as many as cover it are charged as if each had its part of the fewest.
        (ENERGY, 100 + 2 * 200 / 3 + 100 / 3, MODELS, TWICE),
        # Two at least: each is busy for a third of the time.
        (ENERGY, 100 + 2 * 100 / 3 + 100 / 3, asking(4.0, min_replicas=2), TWICE),
        # Two cover 9 of 12 requests/s, and two cover exactly 12.
        (ENERGY, 100 + 200 + 100 / 3, asking(12.0), TWICE),
        # Without a rate a replica is always busy.
        (ENERGY, 100 + 100 + 100 / 3, asking(None), APART),
        (GOODPUT, 6.0, MODELS, APART),
        (GOODPUT, 4.5, asking(5.0, 0.5), APART),
        # A model without a rate counts only where none has one.
        (GOODPUT, 2.0, asking(None), APART),
        (GOODPUT, 9.0, ANY_RATE, APART),
        (MAX_MIN, 1.0, MODELS, APART),
        (MAX_MIN, 0.6, asking(10.0), APART),
        (MAX_MIN, 0.3, asking(10.0, 2.0), APART),
        (MAX_MIN, 3.0, ANY_RATE, APART),
        # The value 0 is that of a plan that leaves one out.
        (MAX_MIN, 0.0, asking(10.0), APART[1:]),
        (MAX_MIN, 1.0, TOO_LARGE, APART[1:]),
    ):
        assert claims(objective, value, models, where) == ()
        for off in (0.9e-6, -0.9e-6, 1.2e-6, -1.2e-6) if value else ():
            other, gap = value * (1 + off), abs(off) if abs(off) > 1e-6 else 0.0
            found = claims(objective, other, models, where, bound=value, gap=gap)
            wrong = (
                f"the certificate's value is {other:.6g}, the plan's is {value:.6g}",
                f"the certificate's value is {other:.6g}, with its moves it is {value:.6g}",
            )
            assert found == (wrong if gap else ())


UNKNOWN_POWER = ("the certificate speaks of min-energy, but the power of a device is not known",)


def test_a_replica_whose_draw_is_not_known_has_no_charge() -> None:
    blind = dataclasses.replace(A, watts=None)
    models, here = (want("a", blind, rate=4.0), MODELS[1]), (placed(blind, on="g0"), APART[1])
    assert claims(ENERGY, 200.0, models, here) == UNKNOWN_POWER


# -- value, bound, gap and status -----------------------------------------------------------


def price(**more: object) -> tuple[str, ...]:
    """What is said of a certificate of the cost 2 in devices."""
    return claims(DEVICES, 2.0, **more)  # type: ignore[arg-type]


def goodput(**more: object) -> tuple[str, ...]:
    """What is said of a certificate of 6 requests/s."""
    return claims(GOODPUT, 6.0, **more)  # type: ignore[arg-type]


def test_figures_of_a_certificate_agree_with_each_other() -> None:
    """That a bound is too tight is said of the value by itself and of that with its moves."""
    for of, bound, gap, says in (
        (price, 2.000001, 0.0, ""),
        (price, 2.00001, 5e-6, "the plan's value 2 is better than its bound 2.00001"),
        (goodput, 9.0, 0.5, ""),
        (goodput, 5.999996, 0.0, ""),
        (goodput, 5.0, 1 / 6, "the plan's value 6 is better than its bound 5"),
        # The gap is the distance of the bound, as a share of the value.
        (price, 1.0, 0.500002, "the certificate's gap is 0.500002, its figures give 0.5"),
        (price, 1.0, 0.499998, "the certificate's gap is 0.499998, its figures give 0.5"),
        (goodput, 606.0, 100.00005, ""),
        (goodput, 606.0, 100.0002, "the certificate's gap is 100, its figures give 100"),
    ):
        times = 2 if "better" in says else 1
        assert of(bound=bound, gap=gap) == lines(says) * times


def test_optimal_is_what_no_more_than_the_slack_is_left_of() -> None:
    for bound, gap, says in (
        (2 - 1.9e-6, 0.95e-6, ""),
        (2 - 2.4e-6, 1.2e-6, "0.00%"),
        (1.0, 0.5, "50.00%"),
    ):
        wrong = f"the certificate says optimal with a gap of {says}" if says else ""
        assert price(bound=bound, gap=gap, status=Status.OPTIMAL) == lines(wrong)


def test_the_best_that_is_known_lies_between_value_and_bound() -> None:
    for of, bound, best, says in (
        (price, 1.0, 1.0, ""),
        (price, 1.0, 2.0, ""),
        (price, 1.0, 2.00001, "the best value known is 2.00001, the plan's own 2"),
        (price, 1.0, 0.99999, "the best value known 0.99999 is better than the bound"),
        (goodput, 9.0, 9.0, ""),
        (goodput, 9.0, 5.9, "the best value known is 5.9, the plan's own 6"),
        (goodput, 9.0, 9.1, "the best value known 9.1 is better than the bound"),
    ):
        assert of(bound=bound, gap=0.5, best_value=best) == lines(says)


def test_the_gap_of_a_value_of_nothing_is_told_from_next_to_nothing() -> None:
    for bound, gap in ((0.0, 0.0), (2e-9, 2.0)):
        assert claims(GOODPUT, 0.0, asking(10.0), (), (), bound=bound, gap=gap) == ()


# -- moves ----------------------------------------------------------------------------------

RUNS = dataclasses.replace(APART[0], device_id="g1", partition=placed(A, on="g1").partition)
LOOSER = "the bound with moves is looser than the one without them"


def moved(objective: Objective, own: float, price: float, **more: object) -> tuple[str, ...]:
    """What is said of a plan that moves the replica of `a`, which ran on g1, at a price."""
    before = Before((RUNS,), price)
    claim = {"moves": 1, "value_without_moves": own, "bound_without_moves": own, **more}
    return claims(objective, before=before, **claim)  # type: ignore[arg-type]


def at_a_cost(**more: object) -> tuple[str, ...]:
    """Of a move that costs a quarter of a device."""
    return moved(DEVICES, 2.0, 0.25, **{"value": 2.25, "bound": 2.25, "move_price": 0.25, **more})


def at_a_share(**more: object) -> tuple[str, ...]:
    """Of a move that takes 10 percent of the goodput."""
    return moved(GOODPUT, 6.0, 10.0, **{"value": 5.4, "bound": 5.4, "move_price": 0.1, **more})


WORTH = "the certificate's value is {}, with its moves it is {}"
OWN = "the certificate's value is 1.9, the plan's is 2"
BEATS = "the plan's value {} is better than its bound {}"


def test_a_value_counts_with_its_moves_and_by_itself() -> None:
    for of, more, says in (
        (at_a_cost, {}, ""),
        (at_a_cost, {"value": 2.2, "bound": 2.2}, WORTH.format(2.2, 2.25)),
        (at_a_cost, {"bound": 2.1, "gap": 0.15 / 2.25}, ""),
        (at_a_cost, {"bound": 2.3, "gap": 0.05 / 2.25}, BEATS.format(2.25, 2.3)),
        (at_a_cost, {"bound": 1.9, "gap": 0.35 / 2.25}, LOOSER),
        (at_a_cost, {"bound_without_moves": 1.0, "bound": 1.0, "gap": 1.25 / 2.25}, ""),
        (at_a_cost, {"value_without_moves": 1.9}, OWN),
        (at_a_cost, {"bound_without_moves": 2.1}, BEATS.format(2, 2.1)),
        (at_a_share, {}, ""),
        (at_a_share, {"value": 5.5, "bound": 5.5}, WORTH.format(5.5, 5.4)),
        (at_a_share, {"bound": 6.0, "gap": 1 / 9}, ""),
        (at_a_share, {"bound": 6.1, "gap": 0.7 / 5.4}, LOOSER),
        (at_a_share, {"bound": 5.3, "gap": 0.1 / 5.4}, BEATS.format(5.4, 5.3)),
    ):
        assert of(**more) == lines(says)


# -- priorities -----------------------------------------------------------------------------

RANKED = (
    dataclasses.replace(MODELS[0], rules=PlacementRules(priority=1)),
    dataclasses.replace(MODELS[1], rules=PlacementRules(priority=-1)),
)
HIGH, LOW = PriorityProof(1, 4.0, 4.0), PriorityProof(-1, 2.0, 2.0)


def by_priority(*proofs: PriorityProof, **more: object) -> tuple[str, ...]:
    """What is said of 4 requests/s that count a hundred times, and of 2 that count a hundredth."""
    bound = sum(100.0**p.priority * p.bound for p in proofs)
    values = {"bound": bound, "gap": abs(bound - 400.02) / 400.02, **more}
    return claims(GOODPUT, 400.02, RANKED, by_priority=proofs, **values)  # type: ignore[arg-type]


def test_what_is_said_of_each_priority_holds() -> None:
    for proofs, more, says in (
        ((HIGH, LOW), {"status": Status.OPTIMAL}, ""),
        ((HIGH, PriorityProof(0, 0.0, 0.0), LOW), {}, ""),
        (
            (HIGH,),
            {"bound": 400.02, "gap": 0.0},
            "the certificate does not speak of each priority that is served | "
            "the bound is 400.02, those of priorities make 400",
        ),
        ((LOW, HIGH), {}, "the certificate lists priorities as [-1, 1]"),
        ((HIGH, PriorityProof(-1, 2.1, 2.0)), {}, "priority -1 gets 2, the certificate says 2.1"),
        ((HIGH, PriorityProof(-1, 1.9, 2.0)), {}, "priority -1 gets 2, the certificate says 1.9"),
        ((HIGH, PriorityProof(-1, 2.0, 1.97)), {}, "priority -1 gets 2, more than its bound 1.97"),
        # Where a higher one gets less than it might, lower ones may get more than their bound.
        ((PriorityProof(1, 4.0, 5.0), PriorityProof(-1, 2.0, 1.9)), {}, ""),
        # A gap of the lowest priority is too small to show in the sum.
        (
            (HIGH, PriorityProof(-1, 2.0, 2.01)),
            {"status": Status.OPTIMAL},
            "the certificate says optimal, priority -1 may get 2.01",
        ),
        (
            (HIGH, LOW),
            {"bound": 401.0, "gap": 0.98 / 400.02},
            "the bound is 401, those of priorities make 400.02",
        ),
    ):
        assert by_priority(*proofs, **more) == lines(says)


def test_one_priority_needs_no_proof_of_its_own_and_no_other_objective_one() -> None:
    twice = by_priority(HIGH, HIGH, LOW, bound=800.02)
    assert "the certificate lists priorities as [1, 1, -1]" in twice
    assert goodput() == ()
    assert price(by_priority=(HIGH,)) == ()
    served = (RANKED[0], dataclasses.replace(RANKED[1], demand=want("b").demand))
    assert claims(GOODPUT, 400.0, served) == (), "b has no rate and does not count"


# -- what is left out -----------------------------------------------------------------------


@pytest.mark.parametrize("objective", COSTS)
@pytest.mark.parametrize(("rate", "wrong"), [(6.0, False), (6.000005, False), (9.0, True)])
def test_a_cost_is_that_of_serving_all_of_a_model(
    objective: Objective, rate: float, wrong: bool
) -> None:
    value = {"min-devices": 2.0, "min-price": 1.75}.get(objective, 0.0)
    charge = 100.0 + 100.0 * rate / (6 if rate == 6 else 12) + 100 / 3
    short = (record.Unplaced("a", "", rate - 6.0),) if rate > 6 else ()
    found = claims(objective, value or charge, asking(rate), unplaced=short)
    says = f"the certificate speaks of {objective}, but a is served in part only"
    assert found == ((says,) if wrong else ())


ROOM = 80 * GIB + 256 * 2**20
"""What `gpu` leaves for a memory share."""


def left_out(objective: Objective = DEVICES, device: Device = FLEET[0], **changes: object) -> bool:
    """Whether it is said of a plan without `a`, of one replica of `b`, that `a` would fit."""
    demand = dataclasses.replace(MODELS[0], **changes)  # type: ignore[arg-type]
    small = point("b", 3, 1, watts=50.0)
    values = {DEVICES: 1.0, MAX_MIN: 1.0, ENERGY: 40 + 100 / 3}
    models, here = (demand, want("b", small, rate=2.0)), (placed(small, on="g1"),)
    out = (record.Unplaced("a", "fits nowhere", demand.demand.req_per_s),)
    found = claims(
        objective,
        values.get(objective, 2.0),
        models,
        here,
        (device, gpu("g1", gib=2, idle_watts=40.0)),
        unplaced=out,
        memory=(("host", GIB),),
    )
    tells = "with it on g0 5.99999 would be served"
    tells = f"a is left out{f', {tells}' if objective is GOODPUT else ''}"
    assert found in ((), (tells,), (f"{tells} of {objective} and would fit a device",))
    return bool(found)


def on(**changes: object) -> dict[str, object]:
    """The one device that it might be on is changed like this."""
    return {"device": dataclasses.replace(FLEET[0], **changes)}  # type: ignore[arg-type]


def size(**changes: object) -> dict[str, object]:
    """The model has one candidate, changed like this."""
    return {"candidates": (dataclasses.replace(A, **changes),)}  # type: ignore[arg-type]


MIG: dict[str, object] = {"candidates": (in_mig("a", 6, "1g.10gb"),)}


def test_what_is_left_out_fits_no_device() -> None:
    """As the plan's rules have it, of an empty device and an empty host."""
    for more, fits in (
        ({}, True),
        ({"objective": MAX_MIN}, True),
        ({"objective": GOODPUT}, True),
        # Its bound is of plans that have as many of the least numbers.
        ({"objective": GOODPUT, "min_replicas": 1}, False),
        ({"objective": GOODPUT, "max_replicas": 0}, False),
        ({"objective": GOODPUT, "rules": PlacementRules(near=("c",))}, False),
        ({"objective": ENERGY, **size(watts=None)}, False),
        ({"demand": want("a").demand}, True),
        # Of shares a model without a rate does not count beside others.
        ({"objective": MAX_MIN, "demand": want("a").demand}, False),
        (size(memory_bytes=Bytes(ROOM)), True),
        (size(memory_bytes=Bytes(ROOM + 1)), False),
        (on(reserved_bytes=Bytes(70 * GIB)), True),
        (on(reserved_bytes=Bytes(71 * GIB)), False),
        (on(free_bytes=Bytes(12 * GIB)), False),
        (on(cordoned=True), False),
        (on(max_replicas=0), False),
        (on(max_replicas=1), True),
        (on(occupied_slices=(1,)), False),
        (on(occupied_sm_percent=1), False),
        (on(hardware="h100-80gb"), False),
        (on(cores=(0,)), True),
        ({**on(cores=(0,)), **size(size=dataclasses.replace(A.size, cores=2))}, False),
        (size(host_memory_bytes=Bytes(GIB)), True),
        (size(host_memory_bytes=Bytes(GIB + 1)), False),
        ({**MIG, **on(modes=(SharingMode.MIG,))}, True),
        ({**MIG, **on(modes=(SharingMode.MIG,), occupied_slices=(0, 1, 2, 3, 4, 5, 7))}, True),
        ({**MIG, **on(modes=(SharingMode.MIG,), mig_fixed=True)}, False),
        ({"candidates": (point("a", 6, 10, sm=60),)}, True),
        ({"candidates": (point("a", 6, 10, sm=60),), **on(occupied_sm_percent=41)}, False),
        ({"candidates": (point("a", 6, 10, sm=60),), **on(mps_group="x")}, False),
        ({"candidates": ()}, False),
        ({"rules": PlacementRules(only_on=("g0",))}, True),
        ({"rules": PlacementRules(only_on=("g7",))}, False),
        ({"rules": PlacementRules(near=("b",))}, True),
        ({"rules": PlacementRules(near=("c",))}, False),
        ({"isolation": Isolation.DEVICE}, True),
        ({"max_replicas": 0}, False),
        ({"slo": Slo(0.1, 0.01)}, True),
        ({"slo": Slo(0.09, 0.01)}, False),
        ({"slo": Slo(0.1, 0.009)}, False),
    ):
        assert left_out(**more) == fits, more


@pytest.mark.parametrize(("only", "fits"), [("g0", 2), ("g1", 0)])
def test_models_that_are_near_each_other_are_left_out_only_if_no_host_holds_both(
    only: str, fits: int
) -> None:
    rules = (
        PlacementRules(near=("b",), only_on=("g0",)),
        PlacementRules(near=("a",), only_on=(only,)),
    )
    models = [dataclasses.replace(m, rules=r) for m, r in zip(MODELS, rules, strict=True)]
    assert len(claims(DEVICES, 0.0, models, (), FLEET[:2])) == fits


def test_what_does_not_serve_all_says_so() -> None:
    assert price(partial=True) == ("the certificate denies that all is served",)
    found = goodput(unplaced=(record.Unplaced("a", "", 0.0),), partial=False)
    assert found == ("the certificate claims that all is served",)
