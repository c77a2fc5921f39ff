"""Moves have a price: a plan prefers running replicas, and leaves no model without one.

What certificates say of moves is tested with the checker (`tests/planner/check/test_changes.py`).
"""

import dataclasses
import functools
from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.diff import DiffCost, diff_cost
from partitiond.core.plan.record import (
    ModelDemand,
    Objective,
    Placement,
    Plan,
    diff_plans,
)
from partitiond.core.profile.record import ProfileKind
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import fleet_request
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.moves import moves_made, price_of_a_move
from partitiond.planner.pack.packing import Packing
from partitiond.planner.search.nearest import LEAVES, OUTAGE, least_against
from tests.planner.build import gpu, gpus, point, want
from tests.planner.check.make import placed
from tests.planner.problems import plan_for

TWO = gpus(2)
TWELVE = Path(__file__).parents[3] / "examples" / "twelve-models.toml"
plan = functools.cache(plan_for)


def takes(request: PlanRequest, made: Plan) -> DiffCost:
    """What applying a plan takes."""
    return diff_cost(diff_plans(request.running, made.placements), made.devices)


def runs_on(devices: tuple[Device, ...], models: tuple[ModelDemand, ...]) -> tuple[Placement, ...]:
    """Placements of models on some devices alone."""
    return plan(PlanRequest(devices, models)).placements


def spread(*on_each: int, **changes: object) -> PlanRequest:
    """So many small models run on each device, where one would hold them all."""
    devices = gpus(len(on_each))
    each = [
        tuple(want(f"{d.id}-{n}", point(f"{d.id}-{n}", 10, 5), rate=5) for n in range(count))
        for d, count in zip(devices, on_each, strict=True)
    ]
    running = tuple(p for d, mine in zip(devices, each, strict=True) for p in runs_on((d,), mine))
    values = {"running": running, "move_price": 0.25, "deterministic": True, **changes}
    return PlanRequest(devices, sum(each, ()), **values)  # type: ignore[arg-type]


def used(made: Plan) -> int:
    """Devices in use."""
    return len({p.device_id for p in made.placements})


@pytest.mark.parametrize(("moves", "price", "devices"), [
    (3, 0.25, 1), (4, 0.25, 2), (5, 0.25, 2), (5, 0.201, 2), (5, 0.199, 1), (5, 0.0, 1),
])  # fmt: skip
def test_a_saved_device_must_be_worth_more_than_its_moves(
    moves: int, price: float, devices: int
) -> None:
    """At the price that is told the other plan wins; without one the best plan is made."""
    proof = plan(spread(6, moves, move_price=price)).certificate
    assert proof.moves == (moves if devices == 1 and price else 0)
    assert proof.value == pytest.approx(devices + price * proof.moves)
    assert (proof.own_value, proof.own_bound) == (devices, 1)


def test_a_move_costs_devices_and_a_hundredth_of_what_is_served_stands_for_one() -> None:
    dear = gpu("g0", price_per_hour=5.0, idle_watts=90.0)
    devices = dear, gpu("g1", price_per_hour=1.0, idle_watts=30.0)
    asked = dataclasses.replace(spread(1, 1), devices=devices, move_price=0.5)
    for objective, price in (
        (Objective.MIN_DEVICES, 0.5),
        (Objective.MIN_PRICE, 1.5),
        (Objective.MIN_ENERGY, 30.0),
        (Objective.MAX_GOODPUT, 0.005),
        (Objective.MAX_MIN, 0.005),
    ):
        assert price_of_a_move(asked, objective) == price
        assert price_of_a_move(dataclasses.replace(asked, running=()), objective) == 0.0


def test_of_plans_that_are_spoken_against_alike_the_first_is_taken() -> None:
    """An outage is never taken where something else is, whatever that is worth."""
    packing = Packing(build_instance(spread(6, 3)))

    def taken(*told: int) -> int:
        objections = iter(told)
        return least_against([packing] * len(told), lambda _: next(objections))

    assert (taken(0), taken(OUTAGE, OUTAGE)) == (0, 0)
    assert (taken(OUTAGE, 0), taken(LEAVES, OUTAGE, LEAVES)) == (1, 1)


def test_what_must_move_and_what_a_smaller_demand_stops_is_no_move() -> None:
    request = spread(6, 3)
    gone = dataclasses.replace(request.devices[1], cordoned=True)
    made = plan(dataclasses.replace(request, devices=(request.devices[0], gone)))
    assert (made.certificate.moves, made.certificate.value, made.unplaced) == (0, 1, ())
    more, less = (want("a", point("a", 10, 15), rate=rate) for rate in (38, 15))
    running = runs_on(TWO, (more,))
    made = plan(PlanRequest(TWO, (less,), running=running, move_price=0.25))
    assert (len(made.placements), made.certificate.moves) == (2, 0)


def test_what_comes_replaces_first_what_had_to_leave() -> None:
    """One replica's device is cordoned, and the other could stay: one that comes is no move."""
    size = point("a", 10, 15)
    there, cordoned, third = gpus(3)
    devices = there, dataclasses.replace(cordoned, cordoned=True), third
    running = placed(size, 1, "g0"), placed(size, 2, "g1")
    instance = build_instance(PlanRequest(devices, (want("a", size, rate=10),), running=running))
    for here, moves in (
        ((placed(size, 2, "g2"),), 0),
        ((placed(size, 1, "g0"), placed(size, 2, "g2")), 0),
        ((placed(size, 1, "g2"), placed(size, 2, "g2")), 1),
    ):
        assert moves_made(instance, here) == moves


@pytest.mark.parametrize(("more", "moves"), [(0.004, 1), (0.002, 0)])
def test_a_move_takes_a_quarter_percent_of_goodput(more: float, moves: int) -> None:
    """Two replicas instead of one in the same place: 0.4 % more is worth a move, 0.2 % is not."""
    old, new = point("a", 10, 60), point("a", 10 * (1 + more), 70, batch=9)
    request = PlanRequest(
        TWO[:1],
        (want("a", old, new, rate=11),),
        running=runs_on(TWO[:1], (want("a", old, rate=11),)),
        objective=Objective.MAX_GOODPUT,
        move_price=0.25,
    )
    proof = plan(request).certificate
    assert proof.moves == moves
    assert proof.value == pytest.approx(proof.own_value * (1 - 0.0025 * moves))


def changed(devices: tuple[Device, ...], *, rate: float = 5, size: float = 10) -> PlanRequest:
    """A full device on which one of two models now needs other replicas."""
    a, b = want("a", point("a", 10, 38), rate=5), want("b", point("b", 10, 40), rate=5)
    running = runs_on(TWO[:1], (a, b))
    now = want("a", point("a", size, 39, batch=4), rate=rate)
    return PlanRequest(devices, (now, b), running=running, move_price=0.25, allow_outage=False)


def test_an_idle_device_takes_what_has_no_room_beside_what_runs() -> None:
    """One device would do, without a move: but model a would have no replica for a while."""
    request = changed(TWO)
    free = plan(dataclasses.replace(request, allow_outage=True, move_price=0.0))
    assert used(free) == 1
    assert [o.model for o in takes(request, free).outages] == ["a"]
    made = plan(request)
    assert {p.replica_id: p.device_id for p in made.placements} == {"a-1": "g1", "b-1": "g0"}
    assert not takes(request, made).outages
    assert made.held_back == ()


@pytest.mark.parametrize("allowed", ["all", "a", "b"])
def test_an_outage_that_is_allowed_is_taken(allowed: str) -> None:
    request = changed(TWO[:1])
    models = tuple(dataclasses.replace(m, allow_outage=m.model == allowed) for m in request.models)
    made = plan(dataclasses.replace(request, models=models, allow_outage=allowed == "all"))
    taken = allowed != "b"
    assert [o.model for o in takes(request, made).outages] == ["a"] * taken
    assert [one.model for one in made.held_back] == ["a"] * (not taken)


def twelve(rate: float, running: tuple[Placement, ...]) -> PlanRequest:
    """Twelve models on eight A100s, one of them at a given demand."""
    asked = fleet_request(load_fleet(TWELVE), time_limit_seconds=2.0)
    models = tuple(
        dataclasses.replace(m, demand=dataclasses.replace(m.demand, req_per_s=rate))
        if m.model == "opt-125m"
        else m
        for m in asked.models
    )
    return dataclasses.replace(
        asked,
        devices=asked.devices[:8],
        models=models,
        running=running,
        deterministic=True,
        move_price=0.25,
        allow_outage=False,
    )


@pytest.mark.full
def test_more_demand_for_one_model_moves_nothing_needlessly() -> None:
    """60 to 100 to 130 requests/s: seven and twelve moves without a price, and an outage."""
    running = plan(twelve(60, ())).placements
    for rate in (100.0, 130.0):
        request = twelve(rate, running)
        made = plan(request)
        diff, cost = diff_plans(running, made.placements), takes(request, made)
        # What could do without a move would take one device more, or two.
        assert len(diff.move) == made.certificate.moves <= 3
        assert made.certificate.value <= used(made) + 0.25 * 3
        assert not cost.outages
        assert not any(step.makes_way for step in cost.steps)
        assert not made.unplaced
        running = made.placements


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (ProfileKind.MEASURED, "proven optimal"),
        (ProfileKind.ESTIMATED, "optimal for these estimates"),
    ],
)
def test_optimal_is_said_of_estimates_where_figures_are_estimated(
    kind: ProfileKind, words: str
) -> None:
    request = spread(6, 3)
    first, *others = request.models
    known = dataclasses.replace(first.candidates[0], profile_kind=kind)
    models = (dataclasses.replace(first, candidates=(known,)), *others)
    made = plan(dataclasses.replace(request, models=models))
    assert made.certificate.optimal_words == words
    assert f"({words})" in made.explanation[0]
