"""Makes random small problems as arrays, and finds their optimum by trying everything."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator

import numpy as np

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import Isolation, PlacementRules
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PRICE_SCALE, RATE_SCALE, PlanRequest
from tests.planner.build import cpu, gpu, in_mig, on_cores, point, want

MIG = (SharingMode.MIG,)
SLICES = ("1g.10gb", "2g.20gb", "3g.40gb")


def random_sites(seed: int, objective: Objective) -> Sites:
    """Up to three devices of up to three kinds, up to three models; every kind of partition."""
    rng = random.Random(f"{seed}-{objective}")
    kinds = rng.sample(["gpu", "gpu", "mig", "small", "cpu"], rng.randint(1, 3))
    devices = []
    for index, kind in enumerate(kinds):
        name, host = f"d{index}", f"host-{rng.randint(0, 1)}"
        price = rng.choice([1.0, 1.5, 3.0])
        match kind:
            case "cpu":
                devices.append(dataclasses.replace(cpu(3, gib=20, host=host), idle_watts=50.0))
            case "mig":
                devices.append(gpu(name, host=host, price_per_hour=price, modes=MIG))
            case "small":
                devices.append(gpu(name, gib=40, host=host, price_per_hour=price))
            case _:
                devices.append(gpu(name, host=host, price_per_hour=price))
    models = tuple(_model(f"m{i}", rng) for i in range(rng.randint(1, 3)))
    groups = random.Random(f"{seed}-groups")
    models = tuple(
        dataclasses.replace(m, isolation_group=groups.choice(["", "", "b"])) for m in models
    )
    request = PlanRequest(
        tuple(devices),
        models,
        objective=objective,
        host_memory_bytes=(("host-0", 24 << 30),) if rng.random() < 0.3 else (),
    )
    return build_sites(build_instance(request))


def _model(name: str, rng: random.Random) -> ModelDemand:
    candidates: list[Candidate] = []
    for _ in range(rng.randint(1, 3)):
        rate = rng.choice([1.0, 2.0, 3.3, 5.0])
        gib, watts = rng.choice([8, 17, 24, 39]), rng.choice([50.0, 120.0])
        match rng.choice(["mps", "memory", "mig", "cores"]):
            case "mps":
                sm, busy = rng.choice([20, 35, 50]), rng.choice([0.0, 0.2])
                candidates.append(point(name, rate, gib, sm=sm, busy=busy, watts=watts, host_gib=6))
            case "memory":
                busy, kappa = rng.choice([0.1, 0.3]), rng.choice([None, 0.1])
                candidates.append(point(name, rate, gib, busy=busy, kappa=kappa, watts=watts))
            case "mig":
                candidates.append(in_mig(name, rate, rng.choice(SLICES), gib=4, watts=watts))
            case _:
                candidates.append(on_cores(name, rate, rng.randint(1, 2), gib=5, watts=watts))
    avoid = ("m0",) if name != "m0" and rng.random() < 0.2 else ()
    least = rng.choice([0, 0, 0, 1, 2])
    return want(
        name,
        *candidates,
        rate=None if rng.random() < 0.15 else rng.choice([1.5, 4.0, 7.0, 12.0]),
        weight=rng.choice([1.0, 2.0]),
        min_replicas=least,
        max_replicas=rng.choice([None, None, max(1, least), least + 2]),
        isolation=rng.choice([*[Isolation.SHARED] * 3, Isolation.DEVICE]),
        rules=PlacementRules(avoid=avoid),
    )


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


State = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Rates, replicas and pools used."""


def states(sites: Sites) -> dict[State, int]:
    """What all devices together can give, and the least cost at which they do."""
    models, pools = len(sites.need_rate), len(sites.instance.pools)
    found: dict[State, int] = {((0,) * models, (0,) * models, (0,) * pools): 0}
    for device, group in enumerate(sites.device_group):
        ways = _device_states(sites, int(group), device)
        following: dict[State, int] = {}
        for (rates, counts, used), cost in found.items():
            for (more_rates, more_counts, more_used), more_cost in ways.items():
                state = (
                    tuple(
                        min(a + b, _cap(sites, m))
                        for m, (a, b) in enumerate(zip(rates, more_rates, strict=True))
                    ),
                    tuple(a + b for a, b in zip(counts, more_counts, strict=True)),
                    tuple(a + b for a, b in zip(used, more_used, strict=True)),
                )
                limits = [pool.capacity for pool in sites.instance.pools]
                over = any(u > c for u, c in zip(state[2], limits, strict=True))
                many = any(n > m for n, m in zip(state[1], sites.need_max, strict=True))
                if not over and not many:
                    total = cost + more_cost
                    following[state] = min(total, following.get(state, total))
        found = following
    return found


def _cap(sites: Sites, model: int) -> int:
    """A rate beyond which it does not matter; models without a rate have none."""
    return int(sites.need_rate[model]) if sites.need_rated[model] else 1 << 60


def _device_states(sites: Sites, group: int, device: int) -> dict[State, int]:
    models, pools = len(sites.need_rate), len(sites.instance.pools)
    found: dict[State, int] = {}
    for site in np.flatnonzero(sites.site_class == sites.class_of[group]):
        for chosen in sets_of(sites, int(site)):
            level = level_of(sites, int(site), chosen) if chosen else 0
            assert level is not None
            rates, counts = [0] * models, [0] * models
            for e in chosen:
                rates[sites.entry_model[e]] += int(sites.rates[e, level])
                counts[sites.entry_model[e]] += 1
            taken = sites.entry_pool[list(chosen)].sum(axis=0)
            drawn = [
                int(taken[0 if pool.kind == "cores" else 1]) * (device in pool.bins)
                for pool in sites.instance.pools
            ]
            cost = int(sites.group_cost[group]) if chosen else 0
            cost += sum(int(sites.entry_cost[e]) for e in chosen)
            state = (tuple(rates), tuple(counts), tuple(drawn))
            found[state] = min(cost, found.get(state, cost))
    return found or {((0,) * models, (0,) * models, (0,) * pools): 0}


def least_cost(sites: Sites) -> float | None:
    """The least cost that serves everything; None where nothing does."""
    best = None
    for (rates, counts, _), cost in states(sites).items():
        served = all(r >= n for r, n in zip(rates, sites.need_rate, strict=True))
        there = all(c >= n for c, n in zip(counts, sites.need_min, strict=True))
        if served and there:
            best = cost if best is None else min(best, cost)
    return None if best is None else best / PRICE_SCALE


def most_goodput(sites: Sites) -> float:
    """The most weighted requests/s, least numbers of replicas aside."""
    rated = sites.need_rated.any()
    return (
        max(
            math.fsum(
                float(w) * r
                for w, r, counts in zip(sites.need_weight, rates, sites.need_rated, strict=True)
                if counts or not rated
            )
            for rates, _, _ in states(sites)
        )
        / RATE_SCALE
    )
