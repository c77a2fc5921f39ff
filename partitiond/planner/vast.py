"""Plans of fleets too large for a list of all places: the search, with columns beside it.

Smaller ones are packed greedily and proven by CP-SAT (`portfolio`). Here the compiled search has
all of the time, from what runs and from nothing; bounds, and further plans, come from the column
generation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from partitiond.core.plan import Objective, Status
from partitiond.planner.bound import Entry
from partitiond.planner.by_class import class_by_class
from partitiond.planner.complete import completed
from partitiond.planner.found import Found
from partitiond.planner.greedy import Guide
from partitiond.planner.members import EPSILON, Member
from partitiond.planner.nearest import (
    May,
    goodput_key,
    nearest_cost,
    nearest_goodput,
    within_moves,
    worth_telling,
)
from partitiond.planner.next_best import on_other_kinds
from partitiond.planner.priorities import classes_of
from partitiond.planner.progress import Watch
from partitiond.planner.sites import Sites, build_sites, usual_prices


class SiteGuide(Guide):
    """Worth of entries by what they take of a device, made for the models that are asked for."""

    def __init__(self, sites: Sites) -> None:
        self.instance, self._sites = sites.instance, sites
        self._price = usual_prices(sites)
        self.entries = _Entries(sites)
        self._at = {
            pair: e
            for e, pair in enumerate(
                zip(sites.entry_site.tolist(), sites.entry_item.tolist(), strict=True)
            )
        }

    def of(self, entry: Entry) -> float:
        """What the entry takes, in devices' cost."""
        site = self._sites.site_of[entry.group, entry.option]
        return float(self._price[self._at[site, entry.item]])


class _Entries(Mapping[int, tuple[Entry, ...]]):
    """Each item of a model once for each group and mode, at the lowest level."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __getitem__(self, model: int) -> tuple[Entry, ...]:
        instance = self._sites.instance
        found: dict[tuple[int, int, int], Entry] = {}
        for group in instance.groups:
            for k, fit in enumerate(group.fits):
                site = self._sites.site_of[group.index, k]
                for item in fit:
                    if instance.items[item].model == model:
                        rate = instance.rate(item, group.options[k])
                        entry = Entry(model, item, group.index, k, rate, ())
                        found.setdefault((group.index, site, item), entry)
        return tuple(found.values())

    def __iter__(self) -> Iterator[int]:
        return iter(need.model for need in self._sites.instance.needs)

    def __len__(self) -> int:
        return len(self._sites.instance.needs)


def solve_vast(watch: Watch, may: May, *, searches: bool = True) -> Found:
    """The best plan for a cost or the most goodput; what cannot all be served is served in part.

    Args:
        watch: the question, the clock, and who is told.
        may: what speaks against a packing.
        searches: False where the compiled search may not be used: what runs is only completed.
    """
    impossible = None
    if watch.objective.is_cost:
        found = _cost(watch, may, searches=searches)
        if found is not None:
            return found
        impossible = watch.impossible
        watch.restart(Objective.MAX_GOODPUT)
    return _goodput(watch, may, impossible, searches=searches)


def _cost(watch: Watch, may: May, *, searches: bool) -> Found | None:
    """None where no plan is found that serves everything."""
    instance = watch.instance
    members, most_moves, by_columns = _members(watch, by_cost=True, searches=searches)
    members = [m for m in members if not m.packing.lacking()]
    if not members:
        return None
    best = min(members, key=lambda m: m.packing.cost())
    allowed = within_moves(instance, members, most_moves)
    seconds = min(instance.request.time_limit_seconds, watch.left() + 1)
    until = watch.finish()
    guide = SiteGuide(build_sites(instance))
    near = nearest_cost(instance, allowed, guide, seconds, may=may, stop=until)
    chosen = near.chosen
    value, least = chosen.packing.cost(), 0.0 if watch.bound is None else watch.bound
    return Found(
        packing=chosen.packing,
        objective=instance.request.objective,
        value=value,
        bound=least,
        status=Status.OPTIMAL if value <= least + EPSILON else Status.FEASIBLE,
        method=_method(chosen, by_columns=by_columns),
        proven_impossible=None,
        first_fit=None,
        best_value=best.packing.cost(),
        seen=worth_telling(instance, near, best, may, until, cost=True),
        elsewhere=on_other_kinds(instance, members, chosen.packing),
    )


def _goodput(watch: Watch, may: May, impossible: bool | None, *, searches: bool) -> Found:
    instance, classes = watch.instance, classes_of(watch.instance)
    members, most_moves, by_columns = _members(watch, by_cost=False, searches=searches)
    best = max(members, key=goodput_key)
    allowed = within_moves(instance, members, most_moves)
    until = watch.finish()
    guide = SiteGuide(build_sites(instance))
    near = nearest_goodput(instance, allowed, guide, may=may, stop=until)
    chosen = near.chosen
    value, most = chosen.packing.goodput(), math.inf if watch.bound is None else watch.bound
    optimal = value >= most * (1 - EPSILON) and chosen.packing.short_replicas() == 0
    found = Found(
        packing=chosen.packing,
        objective=Objective.MAX_GOODPUT,
        value=value,
        bound=most,
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        method=_method(chosen, by_columns=by_columns),
        proven_impossible=impossible,
        first_fit=None,
        best_value=best.packing.goodput(),
        seen=worth_telling(instance, near, best, may, until, cost=False),
    )
    return found if len(classes) < 2 else class_by_class(watch, classes, members, found, {})


def _method(chosen: Member, *, by_columns: bool) -> str:
    return f"{chosen.name}; bound: {'columns' if by_columns else 'none'}"


def _members(
    watch: Watch, *, by_cost: bool, searches: bool
) -> tuple[list[Member], int | None, bool]:
    """Plans, how much one may move, and whether the column generation gave a bound."""
    if not searches:
        return [completed(watch, by_cost=by_cost)], None, False
    # They load compiled code.
    from partitiond.planner.keeping import kept
    from partitiond.planner.searching import search

    members, most_moves = kept(watch, by_cost=by_cost)
    best = max(members, key=_rank(by_cost=by_cost), default=None)
    if watch.done or (watch.stopped and members):
        return members, most_moves, False
    searched, by_columns = search(watch, best, by_cost=by_cost)
    return [*members, *searched], most_moves, by_columns


def _rank(*, by_cost: bool) -> Callable[[Member], Any]:
    return (lambda m: -m.packing.cost()) if by_cost else goodput_key
