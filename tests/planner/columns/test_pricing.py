"""The best column of a way is the one that enumeration finds."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.columns.fleet import ColumnProblem, PricedWay
from partitiond.planner.columns.pricing import Pricer, ReplicaPrices, Way
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Floats, build_sites
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import FREE, gpus, point, want
from tests.planner.problems import question, seeds, sets_of, sites_of

MANY = 2_000_000


def _sets(fleet: ColumnProblem, priced: PricedWay) -> Iterator[tuple[int, ...]]:
    """Sets of entries that a device run that way can hold, by the way's own limits alone."""
    there, sites, limit = set(priced.entries.tolist()), fleet.sites, priced.way.limit
    for chosen in sets_of(sites, priced.site):
        load = sum(int(sites.entry_busy[e]) for e in chosen)
        if len(chosen) < len(limit) and load <= limit[len(chosen)] and there.issuperset(chosen):
            yield chosen


class _Random:
    """Random prices, at which many sets are nearly as good, some models want nothing, and some
    are served in part."""

    def __init__(self, fleet: ColumnProblem, rng: random.Random) -> None:
        models = len(fleet.worth)
        self.fleet = fleet
        self.open = [rng.choice([0.0, 0.3, 0.7, 1.0, 1.0]) for _ in range(models)]
        self.served = [rng.uniform(0.5, 2.0) for _ in range(models)]
        self.each = [rng.choice([0.0, 0.0, -0.1]) for _ in range(models)]
        self.core = rng.choice([0.0, 0.01])
        self.host = rng.choice([0.0, 0.1 / 2**30])
        none = [0.0] * models
        self.prices = ReplicaPrices(self.served, self.each, self.open, none, self.core, self.host)

    def value(self, chosen: tuple[int, ...], level: int) -> float:
        """What a set is worth: each model up to what it wants."""
        sites, got, cost = self.fleet.sites, dict[int, float](), 0.0
        for e in chosen:
            model = int(sites.entry_model[e])
            if not self.open[model]:
                continue
            part = float(self.fleet.part[e, level])
            got[model] = got.get(model, 0.0) + part / self.open[model]
            cores, host = sites.entry_pool[e].tolist()
            cost += self.core * cores + self.host * host - self.each[model]
        return sum(self.served[m] * min(1.0, part) for m, part in got.items()) - cost


@pytest.mark.parametrize("seed", seeds(150, 20))
def test_the_best_column_is_found_and_its_bound_holds(seed: int) -> None:
    """The bound also where the search is cut short."""
    fleet = ColumnProblem(sites_of(question(seed, Objective.MAX_GOODPUT)))
    prices = _Random(fleet, random.Random(seed))
    for priced in (way for ways in fleet.ways for way in ways):
        best = max(prices.value(chosen, priced.level) for chosen in _sets(fleet, priced))
        for nodes in (0, 1, 5):
            assert fleet.pricer.price(priced.way, prices.prices, 0.0, 0.0, 3, nodes) >= best - 1e-9
        for above, steps in ((0.0, 4), (0.0, 0), (0.999 * best, 4), (1.001 * best + 1e-6, 2)):
            bound = fleet.pricer.price(priced.way, prices.prices, above, above, steps, MANY)
            assert bound >= min(best, above) - 1e-9
            if best <= above:
                assert not fleet.pricer.chosen
                assert fleet.pricer.value == 0
                continue
            assert bound == pytest.approx(best)
            assert fleet.pricer.value == pytest.approx(best)
            chosen = tuple(sorted(priced.entries[fleet.pricer.chosen].tolist()))
            assert chosen in set(_sets(fleet, priced))
            assert prices.value(chosen, priced.level) == pytest.approx(best)
        for models in (1, 2, 100):
            fleet.pricer.price(priced.way, prices.prices, 0.0, 0.0, 4, MANY, models)
            chosen = tuple(sorted(priced.entries[fleet.pricer.chosen].tolist()))
            assert len({int(fleet.sites.entry_model[e]) for e in chosen}) <= models
            value = prices.value(chosen, priced.level)
            assert fleet.pricer.value == pytest.approx(value)
            assert value <= best + 1e-9 if models < 100 else value == pytest.approx(max(0.0, best))


def test_a_column_takes_no_byte_and_no_core_more_than_there_is() -> None:
    """Of three replicas of 30 GiB and four cores, at a tenth of the SMs each, beside a small model
    that is worth nothing."""
    model = want("a", point("a", 1.0, 30, sm=10, cores=4), rate=9.0)
    small = want("b", point("b", 1.0, 1, sm=10), rate=9.0)
    for devices, most in (
        (gpus(1), 2),
        (gpus(1, gib=100), 3),
        (gpus(1, gib=100, cores=tuple(range(11))), 2),
    ):
        asked = PlanRequest(
            devices, (model, small), objective=Objective.MAX_GOODPUT, interference=FREE
        )
        fleet = ColumnProblem(build_sites(build_instance(asked)))
        prices = ReplicaPrices([9.0, 0.0], [0.0] * 2, [1.0] * 2, [0.0] * 2, 0.0, 0.0)
        found = list[float]()
        for way in (w for ways in fleet.ways for w in ways):
            fleet.pricer.price(way.way, prices, 0.0, 0.0, 4, MANY)
            found.append(fleet.pricer.value)
        assert max(found) == pytest.approx(most)


def test_only_models_that_lack_replicas_are_worth_more_than_their_demand() -> None:
    fleet = ColumnProblem(sites_of(question(3, Objective.MAX_GOODPUT)))
    models = len(fleet.worth)
    way = max((w for ways in fleet.ways for w in ways), key=lambda w: int(w.way.most))
    model = int(fleet.sites.entry_model[way.entries[0]])

    def chosen(lacks: float) -> Floats:
        each = [1.0 if m == model else 0.0 for m in range(models)]
        missing = [lacks if m == model else 0.0 for m in range(models)]
        none = [0.0] * models
        fleet.pricer.price(way.way, ReplicaPrices(none, each, none, missing, 0, 0), 0, 0, 4, MANY)
        return np.asarray(fleet.sites.entry_model[way.entries[fleet.pricer.chosen]] == model)

    assert not len(chosen(0.0))
    assert 1 <= len(chosen(2.0)) <= 2
    assert chosen(2.0).all()


def test_sets_that_are_not_collected_are_told() -> None:
    """Of a thousand models, of which a device holds any one."""
    many, one = 1000, [1.0] * 1000
    way = Way(
        [*range(many)], [1] * many, one, one, one, [0.0] * 2 * many, [0] * many, one,
        1, 1.0, 1.0, [1e30, 1e30], [],
    )  # fmt: skip
    prices, pricer = ReplicaPrices(one, [0.0] * many, one, [0.0] * many, 0.0, 0.0), Pricer([], many)
    for nodes, least in ((50, 0), (MANY, 100)):  # too many branches, and too many sets
        pricer.sets = []
        assert not pricer.collect(way, prices, 0.0, 0, nodes)
        assert least < len(pricer.sets) < many
