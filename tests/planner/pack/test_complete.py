"""Missing replicas are added without compiled code."""

import dataclasses
import random

import pytest

from bench.planner.shipped import request
from partitiond.core.plan.record import ModelDemand, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete as complete_by
from partitiond.planner.pack.members import KEPT
from partitiond.planner.pack.packing import Packing
from tests.planner.build import gpu, point, want

SMALL = (20, 14, 1, 1.0)


def shipped(kind: str) -> tuple[PlanRequest, Sites]:
    """As the product meets it; with "slack" a third of what fits is wanted."""
    asked = request(kind, *SMALL)
    if kind == "slack":
        asked = dataclasses.replace(asked, models=tuple(_less(m) for m in asked.models))
    return asked, build_sites(build_instance(asked))


def _less(model: ModelDemand) -> ModelDemand:
    rate = model.demand.req_per_s
    demand = dataclasses.replace(model.demand, req_per_s=None if rate is None else rate / 2)
    return dataclasses.replace(model, demand=demand)


def complete(sites: Sites, start: Packing) -> Packing:
    """A copy with what is missing."""
    packing = start.copy()
    complete_by(Adding(packing, usual_prices(sites)), sites.instance.needs)
    return packing


def test_a_lost_device_is_planned_again_without_the_search() -> None:
    asked, _ = shipped("slack")
    first = solve(dataclasses.replace(asked, deterministic=True, time_limit_seconds=0.2))
    assert isinstance(first, Plan)
    lost = first.placements[0].device_id
    hasty = dataclasses.replace(
        asked,
        devices=tuple(d for d in asked.devices if d.id != lost),
        running=tuple(p for p in first.placements if p.device_id != lost),
        may_search=False,
        move_price=1.0,
        deterministic=True,  # a busy machine would leave completing no time
    )
    for objective in (Objective.MIN_DEVICES, Objective.MAX_GOODPUT):
        plan = solve(dataclasses.replace(hasty, objective=objective))
        assert isinstance(plan, Plan)
        assert plan.certificate.objective is objective
        assert plan.certificate.method.startswith(KEPT)
        assert {p.model for p in plan.placements} == {m.model for m in asked.models}
        # Surplus may end; nothing moves.
        there = {p.replica_id: p.device_id for p in plan.placements}
        before = {p.replica_id: p.device_id for p in hasty.running if p.replica_id in there}
        assert before.items() <= there.items()
        assert len(before) >= len(hasty.running) - 2


@pytest.mark.parametrize(("rate", "fits"), [(2.0, True), (4.9, False)])
def test_nobody_is_slowed_down_below_what_it_wants(rate: float, fits: bool) -> None:
    busy = tuple(want(name, point(name, 5, 20, busy=0.9), rate=rate) for name in ("a", "b"))
    instance = build_instance(PlanRequest((gpu("g"),), busy))
    adding = Adding(Packing(instance), usual_prices(build_sites(instance)))
    adding.packing.add(0, 0, 0)
    adding.packing.settle()
    assert adding.add_one(instance.needs[1]) is fits


def lowest_by_definition(packing: Packing, index: int, items: list[int]) -> int | None:
    """The first option that takes the items one after the other, asked of an empty device."""
    group = packing.group(index)
    for option, fit in enumerate(group.fits):
        how, empty = group.options[option], Packing(packing.instance)
        bears = group.held[how.way]
        if not all(item in fit or bears.get(item, 0.0) >= how.level for item in items):
            continue
        if how.mode is not None and any(
            packing.instance.items[item].kappa > how.kappa for item in items
        ):
            continue
        for item in items:
            if not empty.fits(index, item, option, company=False):
                break
            empty.add(index, item, option)
        else:
            return option
    return None


@pytest.mark.parametrize("kind", ["slack", "over"])
def test_the_lowest_option_is_the_first_that_takes_all(kind: str) -> None:
    _, sites = shipped(kind)
    instance, rng = sites.instance, random.Random(kind)
    packing, found = complete(sites, Packing(instance)), set[bool]()
    for _ in range(400):
        index = rng.randrange(len(packing.loads))
        items = [*packing.loads[index].items]
        items += rng.sample(range(len(instance.items)), rng.choice([0, 0, 1, 1, 2]))
        # Items of other modes and other hardware are no reason to be wrong, nor is none at all.
        answer = packing.best_option(index, items)
        assert answer == lowest_by_definition(packing, index, items)
        found.add(answer is not None)
    assert found == {True, False}


def test_a_place_is_looked_for_no_longer_once_it_is_to_stop() -> None:
    _, sites = shipped("slack")
    looks = iter([False] * 3)
    adding = Adding(Packing(sites.instance), usual_prices(sites), stop=lambda: next(looks, True))
    added = [adding.add_one(need) for need in sites.instance.needs]
    assert sum(added) == 3
    assert added[:3] == [True] * 3
