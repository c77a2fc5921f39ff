"""Leaves out sizes that another size of the same model beats wherever they could be used.

In one sharing mode, only what an item takes and gives counts. Suppose an item takes no less of
anything than another item of its model, gives no more and tolerates no higher level. Every plan can
then use the other item instead, so the best plan is as good without it, with far less to try.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement
from partitiond.planner.model.types import Item, Need, engine_key

Row = tuple[float, ...]
Fits = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Spare:
    """The figures that decide which items are not needed.

    Attributes:
        useful: rate of a model beyond which more rate of one replica is worth nothing.
        keep: items that stay even if others beat them.
        shared: which of "cores" and "host" (its memory) are limited on the device or its host.
    """

    useful: Mapping[int, int]
    keep: Collection[int]
    shared: Collection[str] = ()


def in_use(placements: Iterable[Placement], items: Iterable[Item]) -> frozenset[int]:
    """Return the items of placements: those of running replicas are never left out."""
    running = {engine_key(p.candidate, p.partition) for p in placements}
    return frozenset(
        it.index for it in items if running and engine_key(it.candidate, it) in running
    )


def most_useful(needs: Iterable[Need]) -> dict[int, int]:
    """Return each model's rate beyond which one replica gains nothing."""
    return {n.model: max(n.rate, n.survive_rate) for n in needs if n.rated and n.rate}


def without_beaten(
    fit: Mapping[int, float], mode: SharingMode | None, items: Mapping[int, Item], spare: Spare
) -> dict[int, float]:
    """Return what a device can hold in one sharing mode, without items that others of a model beat.

    Args:
        fit: the highest level that each item tolerates there.
        mode: None if a replica has the device to itself.
        items: all items by index.
        spare: the figures that decide.
    """
    in_mig, highest = mode is SharingMode.MIG, max(fit.values(), default=1.0)
    there = (items[index] for index in fit)
    alike = by_key(((it.model, it.mig_profile if in_mig else ""), it) for it in there)
    best = {
        it.index
        for mine in alike.values()
        for it in (_best(mine, mode, fit, highest, spare) if len(mine) > 1 else mine)
    }
    return {i: level for i, level in fit.items() if i in best or i in spare.keep}


def _best(
    mine: list[Item],
    mode: SharingMode | None,
    fit: Mapping[int, float],
    highest: float,
    spare: Spare,
) -> list[Item]:
    """Return the items of one model that none of the others beats; of equal ones the first."""
    import numpy as np  # not at the top: the daemon loads this module, but solves elsewhere

    rows = {it.index: (*_row(mode, it, highest, spare), -fit[it.index]) for it in mine}
    # An item that beats another one comes before it in this order.
    mine = sorted(mine, key=lambda it: (rows[it.index], _taste(it)))
    table = np.array([rows[it.index] for it in mine])
    beats = (table[:, None, :] <= table[None, :, :]).all(axis=2)
    beats &= np.arange(len(mine))[:, None] < np.arange(len(mine))
    beaten: list[bool] = beats.any(axis=0).tolist()  # type: ignore[assignment]
    return [it for it, out in zip(mine, beaten, strict=True) if not out]


def _row(mode: SharingMode | None, it: Item, highest: float, spare: Spare) -> Row:
    """Return what an item takes and lacks, whatever its device's level; less is better."""
    rate = it.candidate.capacity_req_per_s * it.units
    most = spare.useful.get(it.model, math.inf) * highest
    crowded = mode is not None
    return (
        -min(rate, most),
        it.memory_bytes if crowded and mode is not SharingMode.MIG else 0,
        it.sm if crowded else 0,
        it.busy if crowded else 0,
        it.kappa if crowded else 0,
        it.cores if "cores" in spare.shared else 0,
        it.host_bytes if "host" in spare.shared else 0,
        it.cost,
    )


def _taste(it: Item) -> Row:
    """Return the sort key among equals: more capacity, less to load, sooner answers."""
    c = it.candidate
    return (-c.capacity_req_per_s, it.load_bytes, c.ttft_p95_seconds, it.index)
