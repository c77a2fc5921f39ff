"""Makes the oracle's questions into arrays, and tells what one device can hold of them."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest

from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from tests.oracle.questions import question_of
from tests.oracle.truth import Question, able, all_loads, best

FEW: Final = 8
ANY: Final = 1_000_000
"""Replicas: more than any least numbers."""


def seeds(many: int, few: int = FEW) -> list[object]:
    """Seeds for `parametrize`: few of them, and the others in `make soak`."""
    rest = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(few, many)]
    return [*range(few), *rest]


@functools.cache
def question(seed: int, objective: Objective, *, limited: bool = False) -> Question:
    """A question of this objective that has an answer, of models of one priority that all fit."""
    for attempt in itertools.count():
        found = question_of(1_000 * seed + attempt, limited=limited)
        models = tuple(
            dataclasses.replace(m, rules=dataclasses.replace(m.rules, priority=0))
            for m in found.models
        )
        found = dataclasses.replace(found, models=models, objective=objective)
        loads = all_loads(found)
        all_fit = loads is not None and len(able(found, loads)) == len(models)
        if all_fit and optimum(found) is not None:
            return found
    raise AssertionError


def request_of(asked: Question, **more: object) -> PlanRequest:
    """The question as the planner is asked it; by work, not by the clock."""
    values: dict[str, object] = {"time_limit_seconds": 20.0, "deterministic": True, **more}
    return PlanRequest(
        asked.devices,
        asked.models,
        objective=asked.objective,
        host_memory_bytes=asked.host_memory_bytes,
        interference=asked.interference,
        **values,  # type: ignore[arg-type]
    )


def sites_of(asked: Question) -> Sites:
    """Its arrays."""
    return build_sites(build_instance(request_of(asked)))


@functools.cache
def optimum(asked: Question, *, full: bool = False) -> float | None:
    """The best value of any plan; None where none does what the objective asks for.

    Least numbers aside under max-goodput, unless `full`: most of its bounds do not know them.
    """
    if asked.objective is Objective.MAX_GOODPUT and not full:
        asked = dataclasses.replace(asked, short=ANY)
    loads = all_loads(asked)
    assert loads is not None
    value = best(asked, loads)
    return None if value is None else float(value[0])


def is_bound(asked: Question, value: float | None, *, full: bool = False) -> bool:
    """Whether no plan is better than this, or none with all least numbers; None says that nothing
    serves everything."""
    most = optimum(asked, full=full)
    if full and most is None:
        return True
    assert most is not None
    if not asked.objective.is_cost:
        return value is not None and value >= most * (1 - 1e-9) - 1e-9
    # Under min-devices a device costs 1 and a trifle of its price.
    trifle = 2e-3 * len(asked.devices) if asked.objective is Objective.MIN_DEVICES else 0.0
    return value is not None and value <= most * (1 + 1e-9) + 1e-9 + trifle


def sets_of(sites: Sites, site: int) -> Iterator[tuple[int, ...]]:
    """Everything that one device at a site can hold, as entries with repetitions."""
    mine = np.flatnonzero(sites.entry_site == site).tolist()

    def grow(chosen: tuple[int, ...], first: int) -> Iterator[tuple[int, ...]]:
        yield chosen
        for at in range(first, len(mine)):
            longer = (*chosen, mine[at])
            if level_of(sites, site, longer) is not None:
                yield from grow(longer, at)

    return grow((), 0)


def level_of(sites: Sites, site: int, chosen: tuple[int, ...]) -> int | None:
    """The level at which one device at a site holds these entries; None where it does not."""
    rows = list(chosen)
    if (sites.entry_use[rows].sum(axis=0) > sites.capacity[site]).any():
        return None
    if sites.table[site] >= 0:
        code = int(sites.entry_code[rows].sum())
        table = sites.tables[int(sites.table[site]) :][: int(sites.table_size[site])]
        if code >= len(table) or not table[code]:
            return None
    models = {int(sites.entry_model[e]) for e in rows}
    if any(sites.avoid[a, b] for a, b in itertools.combinations(models, 2)):
        return None
    load, kappa = int(sites.entry_busy[rows].sum()), int(sites.entry_kappa[rows].max(initial=0))
    for level in range(int(sites.entry_top[rows].min(initial=99)) + 1):
        row = int(sites.limit_of[site, level, kappa])
        if row < 0 or len(rows) >= sites.busy_limit.shape[1]:
            continue
        if load <= sites.busy_limit[row, len(rows)]:
            return level
    return None


def plan_for(request: PlanRequest) -> Plan:
    """The plan of a request that has one."""
    answer = solve(request)
    assert isinstance(answer, Plan), answer
    return answer
