"""What columns prove holds for every plan, and the plans that they make are plans."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.plan.record import ModelDemand, Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.columns.bound import bound_at
from partitiond.planner.columns.dive import dive
from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn
from partitiond.planner.columns.master import Master, RowPrices
from partitiond.planner.columns.search import expresses, packed, plan_by_columns
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.members import Member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search import portfolio
from partitiond.planner.search.improve import Improver
from partitiond.planner.stop import never
from tests.oracle.truth import Question
from tests.planner.build import gpus, point, want
from tests.planner.problems import (
    is_bound,
    level_of,
    plan_for,
    question,
    seeds,
    sites_of,
)


def _asked(seed: int) -> Question:
    return question(seed, Objective.MAX_GOODPUT, limited=seed % 2 == 1)


@pytest.mark.parametrize("seed", seeds(150, 20))
def test_no_plan_exceeds_the_bound_at_any_prices(seed: int) -> None:
    asked, rng = _asked(seed), np.random.default_rng(seed)
    fleet = ColumnProblem(sites_of(asked))
    if not fleet.worth.any():
        return  # no model has a rate: columns are not asked
    models, classes = len(fleet.worth), len(fleet.classes.count)
    for scale in (0.0, 0.5, 1.0, 2.0):
        worth = float(fleet.worth.max())
        prices = RowPrices(
            served=fleet.worth * rng.uniform(0, scale, models),
            least=rng.choice([0.0, 0.1 * scale * worth], models),
            most=rng.choice([0.0, 0.1 * scale * worth], models),
            device=np.zeros(classes),
            pool=rng.choice([0.0, 0.3 * scale * worth], fleet.classes.pools),
        )
        assert is_bound(asked, bound_at(fleet, prices, never), full=True)
        of_all = dataclasses.replace(prices, least=np.zeros(models))
        bound = bound_at(fleet, of_all, never) or 0.0
        assert is_bound(asked, bound)
        assert bound_at(fleet, of_all, never, below=bound + 1e-9) == bound
        assert bound_at(fleet, of_all, never, below=0.9 * bound) in {None, bound}
        assert bound_at(fleet, of_all, never, below=0.0) is None


@pytest.mark.parametrize("seed", seeds(100, 12))
def test_the_program_is_no_worse_than_any_plan_once_no_column_pays(seed: int) -> None:
    asked = _asked(seed)
    fleet = ColumnProblem(sites_of(asked))
    if not fleet.worth.any() or fleet.least.any():
        return
    master = Master(fleet, fleet.all(), 200)
    master.converge(never)
    assert is_bound(asked, master.value * (1 + 1e-5))


def _columns(fleet: ColumnProblem, rng: random.Random) -> list[DeviceColumn]:
    """A column of two random entries of each site that holds them."""
    found = []
    for site in range(len(fleet.sites.site_class)):
        mine = np.flatnonzero(fleet.sites.entry_site == site).tolist()
        for cls, held in enumerate(fleet.classes.site_class.tolist()):
            if mine and held == fleet.sites.site_class[site]:
                entries = np.array(sorted(rng.choices(mine, k=2)), dtype=np.int64)
                found.append(DeviceColumn(cls, site, 0, entries))
    return [column for column in found if fleet.holds(column)]


@pytest.mark.parametrize("seed", seeds(60, 20))
def test_columns_are_put_on_devices_as_far_as_hosts_have_room_and_models_may_grow(
    seed: int,
) -> None:
    fleet = ColumnProblem(sites_of(question(seed, Objective.MAX_GOODPUT)))
    most = {need.model: need.max_replicas for need in fleet.sites.instance.needs}
    for column in _columns(fleet, random.Random(seed)):
        packing = packed(fleet, [column])
        items = fleet.sites.entry_item[column.entries].tolist()
        placed = [sorted(load.items) for load in packing.loads if load.items]
        rest = fleet.all()
        fleet.take(rest, column)
        roomy = (rest.pool >= 0).all() and not fleet.sites.instance.ties.near
        if roomy and len(packing.instance.pools) == 0:
            models = [packing.instance.items[item].model for item in items]
            mine = [n for n, name in enumerate(models) if models[:n].count(name) < most[name]]
            assert placed == [sorted(items[n] for n in mine)]
        used = zip(packing.pool_used, packing.instance.pools, strict=True)
        assert all(taken <= pool.capacity for taken, pool in used)


def _priced(fleet: ColumnProblem, *, served: float, pool: float) -> float | None:
    models, classes = len(fleet.worth), len(fleet.classes.count)
    pools = np.full(fleet.classes.pools, pool)
    none = np.zeros(models)
    return bound_at(
        fleet, RowPrices(np.full(models, served), none, none, np.zeros(classes), pools), never
    )


def test_a_bound_counts_all_devices_and_what_their_host_has() -> None:
    """Of three GPUs that hold a replica of 4 requests/s each; their host has room for two."""
    model = want("a", point("a", 4.0, 60, host_gib=10), rate=100.0)
    few = (("host", 20 * 2**30),)
    asked = PlanRequest(gpus(3), (model,), objective=Objective.MAX_GOODPUT)
    roomy = ColumnProblem(build_sites(build_instance(asked)))
    assert _priced(roomy, served=100.0, pool=0.0) == pytest.approx(12.0)
    tight = build_instance(dataclasses.replace(asked, host_memory_bytes=few))
    fleet = ColumnProblem(build_sites(tight))
    assert _priced(fleet, served=100.0, pool=8.0) == pytest.approx(8.0)


@pytest.mark.parametrize("seed", seeds(60, 10))
def test_a_column_is_held_where_its_device_holds_it(seed: int) -> None:
    fleet, rng = ColumnProblem(sites_of(_asked(seed))), random.Random(seed)
    for cls, held in enumerate(fleet.classes.site_class.tolist()):
        for site in np.flatnonzero(fleet.sites.site_class == held).tolist():
            mine = np.flatnonzero(fleet.sites.entry_site == site).tolist()
            for size in (1, 2, 3, 4) if mine else ():
                chosen = tuple(sorted(rng.choices(mine, k=size)))
                level = level_of(fleet.sites, site, chosen)
                column = DeviceColumn(cls, site, level or 0, np.array(chosen, dtype=np.int64))
                assert fleet.holds(column) is (level is not None)


def _left_to_the_search() -> dict[str, PlanRequest]:
    first, other = (want(name, point(name, 4.0, 10), rate=4.0) for name in "ab")
    asked = PlanRequest(gpus(1), (first, other), objective=Objective.MAX_GOODPUT)
    plan = plan_for(asked)
    above, near = PlacementRules(priority=1), PlacementRules(near=("a",))
    return {
        "": asked,
        "what runs": dataclasses.replace(asked, running=plan.placements),
        "priorities": _with(asked, dataclasses.replace(other, rules=above)),
        "nearness": _with(asked, dataclasses.replace(other, rules=near)),
    }


def _with(asked: PlanRequest, other: ModelDemand) -> PlanRequest:
    return dataclasses.replace(asked, models=(asked.models[0], other))


def test_what_columns_do_not_say_is_left_to_the_other_search() -> None:
    said = {what: expresses(build_instance(asked)) for what, asked in _left_to_the_search().items()}
    assert said == {"": True, "what runs": False, "priorities": False, "nearness": False}


def _many() -> ColumnProblem:
    """Fourteen models that take a GPU each, as many GPUs, and a first round of few columns."""
    models = tuple(want(f"m{n}", point(f"m{n}", 4.0, 60), rate=4.0) for n in range(14))
    asked = PlanRequest(gpus(14), models, objective=Objective.MAX_GOODPUT)
    return ColumnProblem(build_sites(build_instance(asked)))


@pytest.mark.parametrize("hurried", [False, True])
def test_what_is_left_is_priced_where_time_was_short(hurried: bool) -> None:
    fleet, asked, told = _many(), itertools.count(), list[object]()
    rest = fleet.all()

    def late() -> bool:
        return next(asked) > 0  # after its first round

    dive(
        fleet, rest, late=late, hurry=lambda: hurried, stop=never,
        priced=lambda *prices: told.append(prices),
    )  # fmt: skip
    assert bool(rest.open.any()) is hurried
    assert len(told) == 1


def test_a_plan_by_columns_begins_with_the_plan_that_there_is() -> None:
    fleet = _many()
    improver = Improver(fleet.sites, usual_prices(fleet.sites), by_cost=False, seed=1)
    known = Member("", improver.completed(Packing(fleet.sites.instance)))
    watch = SolveMonitor(fleet.sites.instance)
    watch.deadline = 0.0  # there is time for a round alone
    made = [plan_by_columns(watch, lambda plan, _: plan, one)[0] for one in (known, None)]
    assert made[0].packing.goodput() == 14 * 4.0 > made[1].packing.goodput()


def test_a_bound_is_proven_once_by_the_prices_that_the_first_program_ends_with() -> None:
    """Proofs at its first prices took half of the time, and proved nothing."""
    fleet, told = _many(), list[tuple[RowPrices, RowPrices]]()
    dive(
        fleet, fleet.all(), late=never, hurry=never, stop=never,
        priced=lambda *prices: told.append(prices),
    )  # fmt: skip
    ((_, raw),) = told
    assert bound_at(fleet, raw, never) == pytest.approx(14 * 4.0)


def test_a_program_that_ends_without_an_optimum_keeps_its_last_prices() -> None:
    """The solver's own are 0 then, and prove nothing."""
    fleet = _many()
    whole, part = (Master(fleet, fleet.all(), 3) for _ in range(2))
    whole.converge(never)
    part.add(whole.columns[0], [0])
    before = part.solve()
    part._solver.SetSolverSpecificParametersAsString("max_number_of_iterations:0")
    part.add(whole.columns[1], [0])
    assert part.solve() is before
    assert (part.value, len(part.amount)) == (4.0, 1)


def test_the_search_goes_on_from_the_plan_by_columns_whatever_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It misses least numbers rather often, and an earlier plan that has them is far from it."""
    models = tuple(want(name, point(name, 4.0, 60), rate=4.0) for name in "abc")
    asked = PlanRequest(gpus(2), models, objective=Objective.MAX_GOODPUT)
    instance, starts = build_instance(asked), list[Member | None]()
    by_columns = Member("columns", Packing(instance))

    def searched(
        _: SolveMonitor, start: Member | None, *_a: object, **_more: object
    ) -> list[Member]:
        starts.append(start)
        return []

    monkeypatch.setattr(portfolio, "SMALL", 0)
    monkeypatch.setattr(portfolio, "plan_by_columns", lambda *_: (by_columns, False))
    monkeypatch.setattr(portfolio, "search", searched)
    assert portfolio.solve_portfolio(instance).packing.goodput() == 8.0
    assert starts == [by_columns]
