"""A certificate claims only what the plan's own figures bear out."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import FaultDomain, PlacementRules, Slo
from partitiond.core.plan.choices import Choice
from partitiond.core.plan.record import (
    ModelDemand,
    Objective,
    Placement,
    PriorityProof,
    Status,
    Unplaced,
)
from partitiond.core.units import GIB, Bytes
from partitiond.planner.check import Before
from tests.planner.build import gpu, in_mig, point, want
from tests.planner.check.make import lines, placed, said

A, B = point("a", 6, 10, watts=100.0), point("b", 3, 10, watts=50.0)
MODELS = want("a", A, rate=4.0), want("b", B, rate=2.0)
FLEET = (
    gpu("g0", price_per_hour=1.5, idle_watts=60.0, max_watts=300.0),
    gpu("g1", price_per_hour=0.25, idle_watts=40.0, max_watts=200.0, host="h1"),
    gpu("g2", price_per_hour=9.0, idle_watts=9.0, max_watts=9.0),
)
APART = placed(A, on="g0"), placed(B, on="g1")

GOODPUT, MAX_MIN, HEADROOM = Objective.MAX_GOODPUT, Objective.MAX_MIN, Objective.MAX_HEADROOM
COSTS = [o for o in Objective if o.is_cost]


def rated(**changes: object) -> tuple[ModelDemand, ...]:
    """The models; `changes` are of the first."""
    return (dataclasses.replace(MODELS[0], **changes), MODELS[1])  # type: ignore[arg-type]


def ask(model: ModelDemand, rate: float | None, weight: float = 1.0) -> ModelDemand:
    """The model with another demand."""
    demand = dataclasses.replace(model.demand, req_per_s=rate, weight=weight)
    return dataclasses.replace(model, demand=demand)


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


def survives(kind: FaultDomain, share: float = 1.0, priority: int = 0) -> PlacementRules:
    """A share of the rate survives."""
    return PlacementRules(survive=kind, survive_share=share, priority=priority)


TWICE = placed(A, 1, "g0"), placed(A, 2, "g1"), placed(B, 1, "g1")


@pytest.mark.parametrize(
    ("objective", "value", "models", "where"),
    [
        (Objective.MIN_DEVICES, 2.0, MODELS, APART),
        (Objective.MIN_DEVICES, 1.0, MODELS, (placed(A, on="g0"), placed(B, on="g0"))),
        (Objective.MIN_PRICE, 1.75, MODELS, APART),
        (Objective.MIN_PRICE, 1.5, MODELS, (placed(A, on="g0"), placed(B, on="g0"))),
        (Objective.MIN_POWER, 500.0, MODELS, APART),
        # 60 + 40 idle, and 100 W for 4 of 6, 50 W for 2 of 3 requests/s.
        (Objective.MIN_ENERGY, 200.0, MODELS, APART),
        # Twice as many as cover it are charged as if each had its part of the fewest.
        (Objective.MIN_ENERGY, 100 + 2 * 200 / 3 + 100 / 3, MODELS, TWICE),
        # Two at least: each is busy for a third of the time.
        (Objective.MIN_ENERGY, 100 + 2 * 100 / 3 + 100 / 3, rated(min_replicas=2), TWICE),
        # Two cover 9 of 12 requests/s, and two cover exactly 12.
        (Objective.MIN_ENERGY, 100 + 2 * 75 + 100 / 3, (ask(MODELS[0], 9.0), MODELS[1]), TWICE),
        (Objective.MIN_ENERGY, 100 + 200 + 100 / 3, (ask(MODELS[0], 12.0), MODELS[1]), TWICE),
        # Without a rate a replica is always busy.
        (Objective.MIN_ENERGY, 100 + 100 + 100 / 3, (ask(MODELS[0], None), MODELS[1]), APART),
        (GOODPUT, 6.0, MODELS, APART),
        (GOODPUT, 4.5, (ask(MODELS[0], 5.0, 0.5), MODELS[1]), APART),
        # A model without a rate counts only where none has one.
        (GOODPUT, 2.0, (ask(MODELS[0], None), MODELS[1]), APART),
        (GOODPUT, 9.0, [ask(m, None) for m in MODELS], APART),
        (MAX_MIN, 1.0, MODELS, APART),
        (MAX_MIN, 0.6, (ask(MODELS[0], 10.0), MODELS[1]), APART),
        (MAX_MIN, 0.3, (ask(MODELS[0], 10.0, 2.0), MODELS[1]), APART),
        (MAX_MIN, 3.0, [ask(m, None) for m in MODELS], APART),
        (MAX_MIN, 1.0, (ask(MODELS[0], None), MODELS[1]), APART),
        (HEADROOM, 1.5, MODELS, APART),
        (HEADROOM, 1.2, (ask(MODELS[0], 5.0), MODELS[1]), APART),
        (HEADROOM, 0.6, (ask(MODELS[0], 10.0, 2.0), MODELS[1]), APART),
        # Of 12 requests/s 6 are left without a device: a quarter more than 4.8 of 8.
        (
            HEADROOM,
            1.25,
            (ask(rated(rules=survives(FaultDomain.DEVICE, 0.6))[0], 8), MODELS[1]),
            TWICE,
        ),
        (
            HEADROOM,
            1.5,
            (ask(rated(rules=survives(FaultDomain.DEVICE, 0.5))[0], 8), MODELS[1]),
            TWICE,
        ),
        # The value 0 is that of a plan that leaves one out.
        (MAX_MIN, 0.0, (ask(MODELS[0], 10.0), MODELS[1]), APART[1:]),
        (
            MAX_MIN,
            1.0,
            (
                want(
                    "a", bigger := dataclasses.replace(A, memory_bytes=Bytes(999 * GIB)), rate=4.0
                ),
                MODELS[1],
            ),
            APART[1:],
        ),
    ],
)
def test_the_value_is_that_of_the_objective(
    objective: Objective,
    value: float,
    models: Sequence[ModelDemand],
    where: Sequence[Placement],
) -> None:
    assert claims(objective, value, models, where) == ()
    for off in (0.9e-6, -0.9e-6) if value else ():
        close = value * (1 + off)
        assert claims(objective, close, models, where, bound=value) == ()
    for off in (1.2e-6, -1.2e-6) if value else ():
        wrong = value * (1 + off)
        found = claims(objective, wrong, models, where, bound=value, gap=abs(off))
        assert found == (
            f"the certificate's value is {wrong:.6g}, the plan's is {value:.6g}",
            f"the certificate's value is {wrong:.6g}, with its moves it is {value:.6g}",
        )


@pytest.mark.parametrize(
    ("objective", "known"),
    [(Objective.MIN_POWER, {"max_watts": 1.0}), (Objective.MIN_ENERGY, {"idle_watts": 1.0})],
)
def test_power_that_is_not_known_proves_nothing(
    objective: Objective, known: dict[str, float]
) -> None:
    unknown = gpu("g0", hardware="of tomorrow")
    sizes = [dataclasses.replace(c, hardware="of tomorrow") for c in (A, B)]
    models = [dataclasses.replace(m, candidates=(c,)) for m, c in zip(MODELS, sizes, strict=True)]
    here = [placed(c, on="g0") for c in sizes]
    value = 1.0 + (100.0 if objective is Objective.MIN_ENERGY else 0.0)
    assert claims(objective, value, models, here, (unknown,)) == (
        f"the certificate speaks of {objective}, but the power of a device is not known",
    )
    watts = dataclasses.replace(unknown, **known)  # type: ignore[arg-type]
    assert claims(objective, value, models, here, (watts, FLEET[2])) == ()
    assert claims(objective, value, models, here, (watts, unknown)) != (), "an id twice"


def test_a_replica_whose_draw_is_not_known_has_no_charge() -> None:
    blind = dataclasses.replace(A, watts=None)
    models = want("a", blind, rate=4.0), MODELS[1]
    assert claims(Objective.MIN_ENERGY, 200.0, models, (placed(blind, on="g0"), APART[1])) == (
        "the certificate speaks of min-energy, but the power of a device is not known",
    )


# -- value, bound, gap and status -----------------------------------------------------------


def price(**more: object) -> tuple[str, ...]:
    """What is said of a certificate of the cost 2 in devices."""
    return claims(Objective.MIN_DEVICES, 2.0, **more)  # type: ignore[arg-type]


def goodput(**more: object) -> tuple[str, ...]:
    """What is said of a certificate of 6 requests/s."""
    return claims(GOODPUT, 6.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "certificate", "says"),
    [
        (price, {"bound": 1.0, "gap": 0.5}, ""),
        (price, {"bound": 2.000001}, ""),
        (
            price,
            {"bound": 2.00001, "gap": 5e-6},
            " | ".join(["the plan's value 2 is better than its bound 2.00001"] * 2),
        ),
        (goodput, {"bound": 9.0, "gap": 0.5}, ""),
        (goodput, {"bound": 5.999996}, ""),
        (
            goodput,
            {"bound": 5.0, "gap": 1 / 6},
            " | ".join(["the plan's value 6 is better than its bound 5"] * 2),
        ),
        # The gap is the distance of the bound, as a share of the value.
        (price, {"bound": 1.0, "gap": 0.5000009}, ""),
        (
            price,
            {"bound": 1.0, "gap": 0.500002},
            "the certificate's gap is 0.500002, its figures give 0.5",
        ),
        (
            price,
            {"bound": 1.0, "gap": 0.499998},
            "the certificate's gap is 0.499998, its figures give 0.5",
        ),
        (goodput, {"bound": 606.0, "gap": 100.00005}, ""),
        (
            goodput,
            {"bound": 606.0, "gap": 100.0002},
            "the certificate's gap is 100, its figures give 100",
        ),
        # Optimal is what no more than the slack is left of.
        (price, {"bound": 2 - 1.9e-6, "gap": 0.95e-6, "status": Status.OPTIMAL}, ""),
        (
            price,
            {"bound": 2 - 2.4e-6, "gap": 1.2e-6, "status": Status.OPTIMAL},
            "the certificate says optimal with a gap of 0.00%",
        ),
        (
            price,
            {"bound": 1.0, "gap": 0.5, "status": Status.OPTIMAL},
            "the certificate says optimal with a gap of 50.00%",
        ),
        # The best that is known lies between value and bound.
        (price, {"bound": 1.0, "gap": 0.5, "best_value": 1.0}, ""),
        (price, {"bound": 1.0, "gap": 0.5, "best_value": 2.0}, ""),
        (
            price,
            {"bound": 1.0, "gap": 0.5, "best_value": 2.00001},
            "the best value known is 2.00001, the plan's own 2",
        ),
        (
            price,
            {"bound": 1.0, "gap": 0.5, "best_value": 0.99999},
            "the best value known 0.99999 is better than the bound",
        ),
        (goodput, {"bound": 9.0, "gap": 0.5, "best_value": 9.0}, ""),
        (
            goodput,
            {"bound": 9.0, "gap": 0.5, "best_value": 5.9},
            "the best value known is 5.9, the plan's own 6",
        ),
        (
            goodput,
            {"bound": 9.0, "gap": 0.5, "best_value": 9.1},
            "the best value known 9.1 is better than the bound",
        ),
    ],
)
def test_figures_of_a_certificate_agree_with_each_other(
    of: Callable[..., tuple[str, ...]], certificate: dict[str, object], says: str
) -> None:
    assert of(**certificate) == lines(says)


def test_the_gap_of_a_value_of_nothing_is_told_from_next_to_nothing() -> None:
    models = (ask(MODELS[0], 10.0), MODELS[1])
    assert claims(GOODPUT, 0.0, models, (), bound=0.0) == ()
    assert claims(GOODPUT, 0.0, models, (), bound=2e-9, gap=2.0) == ()


# -- moves ----------------------------------------------------------------------------------

RUNS = dataclasses.replace(APART[0], device_id="g1", partition=placed(A, on="g1").partition)


def moved(objective: Objective, own: float, price: float, **more: object) -> tuple[str, ...]:
    """What is said of a plan that moves the replica of `a`, which ran on g1, at a price."""
    before = Before((RUNS,), price)
    claim = {"moves": 1, "value_without_moves": own, "bound_without_moves": own, **more}
    return claims(objective, before=before, **claim)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, ""),
        ({"value": 2.2, "bound": 2.2}, "the certificate's value is 2.2, with its moves it is 2.25"),
        ({"bound": 2.1, "gap": 0.15 / 2.25}, ""),
        ({"bound": 2.3, "gap": 0.05 / 2.25}, "the plan's value 2.25 is better than its bound 2.3"),
        (
            {"bound": 1.9, "gap": 0.35 / 2.25},
            "the bound with moves is looser than the one without them",
        ),
        ({"bound_without_moves": 1.0, "bound": 1.0, "gap": 1.25 / 2.25}, ""),
        ({"value_without_moves": 1.9}, "the certificate's value is 1.9, the plan's is 2"),
        ({"bound_without_moves": 2.1}, "the plan's value 2 is better than its bound 2.1"),
    ],
)
def test_a_cost_counts_with_its_moves_and_by_itself(more: dict[str, object], says: str) -> None:
    values = {"value": 2.25, "bound": 2.25, "move_price": 0.25, **more}
    assert moved(Objective.MIN_DEVICES, 2.0, 0.25, **values) == lines(says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, ""),
        ({"value": 5.5, "bound": 5.5}, "the certificate's value is 5.5, with its moves it is 5.4"),
        ({"bound": 6.0, "gap": 1 / 9}, ""),
        (
            {"bound": 6.1, "gap": 0.7 / 5.4},
            "the bound with moves is looser than the one without them",
        ),
        ({"bound": 5.3, "gap": 0.1 / 5.4}, "the plan's value 5.4 is better than its bound 5.3"),
    ],
)
def test_moves_take_a_share_of_what_is_no_cost(more: dict[str, object], says: str) -> None:
    """A price of 10 percent a move."""
    values = {"value": 5.4, "bound": 5.4, "move_price": 0.1, **more}
    assert moved(GOODPUT, 6.0, 10.0, **values) == lines(says)


# -- choices --------------------------------------------------------------------------------

MINE = Choice(2.0, 1.0, 1, chosen=True)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ((MINE,), ""),
        ((MINE, Choice(2.0, 2.0, 0)), ""),
        ((MINE, Choice(1.0, 1.0, 2)), ""),
        ((dataclasses.replace(MINE, chosen=False),), "not one of the choices is the plan"),
        ((MINE, dataclasses.replace(MINE, moves=2)), "not one of the choices is the plan"),
        ((dataclasses.replace(MINE, value=2.00001),), "not one of the choices is the plan"),
        ((dataclasses.replace(MINE, moves=2),), "of the choices the plan moves 2, it moves 1"),
        (
            (MINE, Choice(3.0, 0.9, 0)),
            "the bound for 0 moves is looser than the one for any number",
        ),
        (
            (MINE, Choice(1.5, 1.6, 0)),
            "the plan with 0 moves, 1.5, is better than the bound for 0 moves, 1.6",
        ),
        # A plan that moves no more than a bound speaks of is not better than it.
        (
            (dataclasses.replace(MINE, bound=1.5), Choice(1.4, 1.0, 1)),
            "the plan with 1 moves, 1.4, is better than the bound for 1 moves, 1.5",
        ),
        ((dataclasses.replace(MINE, bound=1.5), Choice(1.4, 1.0, 2)), ""),
        ((dataclasses.replace(MINE, bound=1.5), Choice(1.5, 1.5, 0)), ""),
    ],
)
def test_choices_contain_the_plan_and_none_beats_a_bound(
    choices: tuple[Choice, ...], says: str
) -> None:
    values = {"value": 2.25, "bound": 1.25, "gap": 1 / 2.25, "move_price": 0.25}
    found = moved(
        Objective.MIN_DEVICES, 2.0, 0.25, **values, bound_without_moves=1.0, choices=choices
    )
    assert found == lines(says)


def test_choices_count_goodput_the_other_way_round() -> None:
    def of(*others: Choice) -> tuple[str, ...]:
        mine = Choice(6.0, 8.0, 0, chosen=True)
        return goodput(bound=9.0, gap=0.5, choices=(mine, *others))

    assert of(Choice(8.5, 9.0, 1)) == ()
    assert of(Choice(7.0, 9.1, 1)) == (
        "the bound for 1 moves is looser than the one for any number",
    )
    assert of(Choice(8.5, 9.0, 0)) == (
        "the plan with 0 moves, 8.5, is better than the bound for 0 moves, 8",
    )


def test_without_a_price_of_moves_nothing_is_said_of_their_number() -> None:
    assert price(choices=(Choice(2.0, 2.0, 7, chosen=True),)) == ()


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


def proof(of: PriorityProof, **changes: float) -> PriorityProof:
    """Another proof of the same priority."""
    return dataclasses.replace(of, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("proofs", "more", "says"),
    [
        ((HIGH, LOW), {"status": Status.OPTIMAL}, ()),
        ((HIGH, PriorityProof(0, 0.0, 0.0), LOW), {}, ()),
        (
            (HIGH,),
            {"bound": 400.02, "gap": 0.0},
            (
                "the certificate does not speak of each priority that is served",
                "the bound is 400.02, those of priorities make 400",
            ),
        ),
        ((LOW, HIGH), {}, ("the certificate lists priorities as [-1, 1]",)),
        ((HIGH, HIGH, LOW), {"bound": 800.02}, None),
        ((HIGH, proof(LOW, value=2.1)), {}, ("priority -1 gets 2, the certificate says 2.1",)),
        ((HIGH, proof(LOW, value=1.9)), {}, ("priority -1 gets 2, the certificate says 1.9",)),
        ((HIGH, proof(LOW, bound=1.97)), {}, ("priority -1 gets 2, more than its bound 1.97",)),
        # Where a higher one gets less than it might, lower ones may get more than their bound.
        ((proof(HIGH, bound=5.0), proof(LOW, bound=1.9)), {}, ()),
        # A gap of the lowest priority is too small to show in the sum.
        (
            (HIGH, proof(LOW, bound=2.01)),
            {"status": Status.OPTIMAL},
            ("the certificate says optimal, priority -1 may get 2.01",),
        ),
        (
            (HIGH, LOW),
            {"bound": 401.0, "gap": 0.98 / 400.02},
            ("the bound is 401, those of priorities make 400.02",),
        ),
    ],
)
def test_what_is_said_of_each_priority_holds(
    proofs: tuple[PriorityProof, ...], more: dict[str, object], says: tuple[str, ...] | None
) -> None:
    if says is None:
        assert "the certificate lists priorities as [1, 1, -1]" in by_priority(*proofs, **more)
    else:
        assert by_priority(*proofs, **more) == says


def test_one_priority_needs_no_proof_of_its_own_and_no_other_objective_one() -> None:
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
    value = {"min-devices": 2.0, "min-price": 1.75, "min-power": 500.0}.get(objective, 0.0)
    charge = 100.0 + 100.0 * rate / (6 if rate == 6 else 12) + 100 / 3
    models = (ask(MODELS[0], rate), MODELS[1])
    short = (Unplaced("a", "", rate - 6.0),) if rate > 6 else ()
    found = claims(objective, value or charge, models, unplaced=short)
    says = f"the certificate speaks of {objective}, but a is served in part only"
    assert found == ((says,) if wrong else ())


ROOM = 80 * GIB + 256 * 2**20
"""What `gpu` leaves for a memory share."""


def left_out(
    objective: Objective = Objective.MIN_DEVICES,
    device: Device = FLEET[0],
    **changes: object,
) -> bool:
    """Whether it is said of a plan without `a`, of one replica of `b`, that `a` would fit."""
    demand = dataclasses.replace(MODELS[0], **changes)  # type: ignore[arg-type]
    small = point("b", 3, 1)
    value = {Objective.MIN_DEVICES: 1.0, MAX_MIN: 1.0, HEADROOM: 1.5}.get(objective, 2.0)
    found = claims(
        objective,
        value,
        (demand, want("b", small, rate=2.0)),
        (placed(small, on="g1"),),
        (device, gpu("g1", gib=2)),
        unplaced=(Unplaced("a", "fits nowhere", demand.demand.req_per_s),),
    )
    assert found in ((), (f"a is left out of {objective} and would fit a device",))
    return bool(found)


def on(**changes: object) -> dict[str, object]:
    """The one device that it might be on is changed like this."""
    return {"device": dataclasses.replace(FLEET[0], **changes)}  # type: ignore[arg-type]


def size(**changes: object) -> dict[str, object]:
    """The model has one candidate, changed like this."""
    return {"candidates": (dataclasses.replace(A, **changes),)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({}, True),
        ({"objective": HEADROOM}, True),
        ({"objective": MAX_MIN}, True),
        ({"objective": GOODPUT}, False),
        ({"demand": want("a").demand}, True),
        # Of shares a model without a rate does not count beside others.
        ({"objective": MAX_MIN, "demand": want("a").demand}, False),
        # A GiB less than there is: what would fit by less may have reasons not to.
        (size(memory_bytes=Bytes(ROOM - GIB)), True),
        (size(memory_bytes=Bytes(ROOM - GIB + 1)), False),
        (on(reserved_bytes=Bytes(70 * GIB)), False),
        (on(free_bytes=Bytes(12 * GIB)), False),
        (on(cordoned=True), False),
        (on(max_replicas=0), False),
        (on(max_replicas=1), True),
        (on(occupied_slices=(1,)), False),
        (on(occupied_sm_percent=1), False),
        (on(mps_group=""), False),
        (on(modes=(SharingMode.MPS,)), False),
        (on(hardware="h100-80gb"), False),
        (on(cores=(0,)), True),
        ({**on(cores=(0,)), **size(size=dataclasses.replace(A.size, cores=2))}, False),
        (size(size=dataclasses.replace(A.size, cores=2)), True),
        (size(host_memory_bytes=Bytes(1)), False),
        ({"candidates": (in_mig("a", 6, "1g.10gb"),), **on(modes=(SharingMode.MIG,))}, False),
        ({"candidates": ()}, False),
        ({"rules": PlacementRules(only_on=("g0",))}, False),
        ({"rules": PlacementRules(near=("b",))}, False),
        ({"max_replicas": 0}, False),
        ({"max_replicas": 1}, True),
        ({"slo": Slo(9.0, 9.0)}, False),
    ],
)
def test_what_is_left_out_fits_no_device(more: dict[str, object], fits: bool) -> None:
    """The checker says it only of what surely fits: it does not weigh all that the solver does."""
    assert left_out(**more) == fits  # type: ignore[arg-type]


def test_a_share_of_nothing_may_leave_out_what_fits() -> None:
    models = (ask(MODELS[0], 10.0), MODELS[1])
    out = (Unplaced("a", "", 10.0),)
    assert claims(MAX_MIN, 0.0, models, APART[1:], unplaced=out) == ()
