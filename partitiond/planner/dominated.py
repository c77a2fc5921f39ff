"""Leaves out sizes that another size of the same model beats wherever they could be used.

Within one way to run a device, what an item takes and gives there is all that counts. An item that
takes no less of anything than another one of its model and gives no more can be replaced by that
one in every plan, so without it the best plan is as good, and there is far less to try.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from partitiond.core.hardware import SharingMode
from partitiond.core.plan import Objective
from partitiond.planner.types import (
    Item,
    Need,
    Option,
    PlanRequest,
    engine_key,
    rate_at,
)

Row = tuple[float, ...]
Fits = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Spare:
    """What decides which items are not needed.

    Attributes:
        useful: rate of a model beyond which more of one replica is worth nothing.
        keep: items that stay whatever beats them.
        shared: of "cores" and "host" (its memory), what is limited on the device or its host.
    """

    useful: Mapping[int, int]
    keep: Collection[int]
    shared: Collection[str] = ()


def in_use(request: PlanRequest, items: Iterable[Item]) -> frozenset[int]:
    """Items that running replicas stay as: they are never left out."""
    running = {engine_key(p.candidate, p.partition.memory_bytes) for p in request.running}
    if not running:
        return frozenset()
    return frozenset(
        it.index for it in items if engine_key(it.candidate, it.candidate.memory_bytes) in running
    )


def most_useful(request: PlanRequest, needs: Iterable[Need]) -> dict[int, int]:
    """Rate of a model beyond which more of one replica is worth nothing; none under headroom."""
    if request.objective is Objective.MAX_HEADROOM:
        return {}
    return {n.model: max(n.rate, n.survive_rate) for n in needs if n.rated and n.rate}


def without_dominated(
    options: Sequence[Option],
    fits: Sequence[tuple[int, ...]],
    items: Sequence[Item],
    spare: Spare,
) -> tuple[Fits, Fits]:
    """What each way to run a device can hold, less the items that others of their model beat.

    Args:
        options: the ways to run the device, levels ascending.
        fits: what each can hold.
        items: of the instance.
        spare: what counts.

    Returns:
        What is needed at some level and with it at all lower ones, as what is on a device counts
        at the lowest level that holds it; and what is needed at that very level.
    """
    needed: dict[SharingMode | None, set[int]] = {}
    found: list[tuple[int, ...]] = []
    here: list[tuple[int, ...]] = []
    for option, fit in zip(reversed(options), reversed(fits), strict=True):
        higher = needed.setdefault(option.mode, set(spare.keep))
        best = _needed(option, [items[i] for i in fit], spare)
        higher |= best
        found.append(tuple(i for i in fit if i in higher))
        here.append(tuple(i for i in fit if i in best or i in spare.keep))
    return tuple(reversed(found)), tuple(reversed(here))


def _needed(option: Option, fit: list[Item], spare: Spare) -> set[int]:
    """Items that no other one of the same model beats on a device run one way."""
    alike: dict[tuple[int, str], list[Item]] = {}
    for it in fit:
        profile = it.mig_profile if option.geometry is not None else ""
        alike.setdefault((it.model, profile), []).append(it)
    best = (_best(option, mine, spare) if len(mine) > 1 else mine for mine in alike.values())
    return {it.index for mine in best for it in mine}


def _best(option: Option, mine: list[Item], spare: Spare) -> list[Item]:
    """Of items of one model those that none of the others beats; of equals the first."""
    import numpy as np  # not above: a daemon loads this module, and solves elsewhere

    rows = {it.index: _row(option, it, spare) for it in mine}
    # Whatever beats an item comes before it in this order.
    mine = sorted(mine, key=lambda it: (rows[it.index], _taste(it)))
    table = np.array([rows[it.index] for it in mine])
    beats = (table[:, None, :] <= table[None, :, :]).all(axis=2)
    beaten: list[bool] = np.triu(beats, 1).any(axis=0).tolist()  # type: ignore[assignment]
    return [it for it, out in zip(mine, beaten, strict=True) if not out]


def _row(option: Option, it: Item, spare: Spare) -> Row:
    """What an item takes and lacks, each the less the better."""
    rate = rate_at(it, option)
    crowded = option.max_items > 1
    return (
        -min(rate, spare.useful.get(it.model, rate)),
        it.memory_mib if crowded and option.geometry is None else 0,
        it.sm if crowded else 0,
        it.busy if crowded else max(0, it.busy - option.busy_limit[1]),
        it.cores if "cores" in spare.shared else 0,
        it.host_mib if "host" in spare.shared else 0,
        it.cost,
    )


def _taste(it: Item) -> Row:
    """Among equals: more capacity, less to load, sooner answers."""
    c = it.candidate
    return (-c.capacity_req_per_s, it.load_bytes, c.ttft_p95_seconds, it.index)
