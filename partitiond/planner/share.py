"""What is left over: models without a rate fill it, by weight."""

from collections.abc import Callable, Iterable

import numpy as np

from partitiond.planner.exact.objectives import reference_rates
from partitiond.planner.packing import Packing
from partitiond.planner.prices import usual_prices
from partitiond.planner.rules import lonely
from partitiond.planner.sites import build_sites
from partitiond.planner.types import Need


def share_value(packing: Packing) -> float:
    """How good the shares are: the smallest weighted one counts most, then their sum."""
    unrated = [need for need in packing.instance.needs if not need.rated]
    units = reference_rates(packing.instance) if unrated else {}
    # Planned rate over what one device gives the model when it has it to itself.
    shares = [packing.rates[need.model] / units[need.model] for need in unrated]
    weights = [need.weight for need in unrated]
    if not shares:
        return 0.0
    lowest = min(s / w for s, w in zip(shares, weights, strict=True))
    return len(shares) * lowest + sum(shares) / 100


def fill(
    packing: Packing, devices: Iterable[int], stop: Callable[[], bool] = lambda: False
) -> None:
    """Add replicas of models without a rate until none fits.

    The model with the smallest weighted share goes first. No replica is added where it would
    take a covered demand, or an SLO, below what was asked.

    Args:
        packing: is changed.
        devices: that may be filled.
        stop: says when to leave it at what was added.
    """
    allowed = list(devices)
    needs = [need for need in packing.instance.needs if not need.rated]
    units = reference_rates(packing.instance) if needs else {}
    ranked = _ranked(packing, needs)
    failed: Failed = set()
    while needs and not stop():
        need = min(
            needs, key=lambda n: (packing.rates[n.model] / units[n.model] / n.weight, n.model)
        )
        if not _add_best(packing, need, ranked[need.model], allowed, failed, stop=stop):
            needs.remove(need)


def _ranked(packing: Packing, needs: Iterable[Need]) -> dict[int, list[tuple[int, int]]]:
    """For each model the class of device and item of its entries, most rate per worth first."""
    sites = build_sites(packing.instance)
    merit = -sites.rates.max(axis=1, initial=0) / np.maximum(usual_prices(sites), 1e-12)
    found = {}
    for need in needs:
        mine = np.flatnonzero(sites.entry_model == packing.instance.needs.index(need))
        ranked = mine[np.lexsort((sites.entry_item[mine], merit[mine]))]
        classes = sites.site_class[sites.entry_site[ranked]]
        found[need.model] = [*zip(classes.tolist(), sites.entry_item[ranked].tolist(), strict=True)]
    return found


Failed = set[tuple[int, int, int]]
"""(device, replicas on it, item) that were tried in vain: replicas are only added, so what a device
did not hold it never does. What took from somebody's demand is not tried again either, though by
then that demand may have more to spare."""


def _add_best(
    packing: Packing,
    need: Need,
    ranked: list[tuple[int, int]],
    allowed: list[int],
    failed: Failed,
    *,
    stop: Callable[[], bool],
) -> bool:
    """Add the replica that gains most per worth; False where none fits or none gains."""
    if packing.counts[need.model] >= need.max_replicas:
        return False
    # Who has to be near another model may find it there later: nothing is remembered then.
    remember = not packing.instance.ties.near
    class_of = build_sites(packing.instance).device_class
    tried: set[tuple[int, int]] = set()
    for group_class, item in ranked:
        if stop():
            return False
        for index in allowed:
            key = (index, len(packing.loads[index].items), item)
            if class_of[index] != group_class or (index, item) in tried or key in failed:
                continue
            tried.add((index, item))
            if add_if_harmless(packing, index, item):
                return True
            if remember:
                failed.add(key)
    return False


def add_if_harmless(packing: Packing, index: int, item: int) -> bool:
    """Add an item, at a higher level if need be, if nobody's demand suffers and it gains."""
    load, instance = packing.loads[index], packing.instance
    option = packing.best_option(index, [*load.items, item])
    if option is None or not packing.pools_allow(index, item):
        return False
    model = instance.items[item].model
    if lonely(packing, index, model):
        return False
    before, lacking, old = packing.rates[model], len(packing.lacking()), load.option
    if old is not None and old != option:
        packing.rerun(index, option)
    packing.add(index, item, option)
    if packing.rates[model] > before and len(packing.lacking()) <= lacking:
        return True
    packing.remove(index, item)
    if old is not None and old != option:
        packing.rerun(index, old)
    return False
