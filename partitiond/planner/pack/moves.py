"""Counts the moves that a plan makes of running replicas, and prices them.

A running replica that could stay and does not is a move if another replica of its model starts in
its place. Otherwise the model has one replica fewer, which costs nothing. Replicas that cannot stay
(their device is gone or cordoned, no candidate supports them any more, their release changed) have
to move, and are free: replicas that start are counted as replacements of these first.

The price of a move, `PlanRequest.move_price`, is a number of devices: under the cost objectives
each costs as much as the mean device. Under the others no device has a cost, and a hundredth of the
value stands for one.
"""

import collections
import math
from collections.abc import Mapping
from typing import Final

from partitiond.core.plan.costs import device_cost
from partitiond.core.plan.record import Objective, Placement, same_engine
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import Applied
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items

DEVICE_SHARE: Final = 0.01
"""Share of a value that is maximised, in place of a device. By definition (docs/planning.md)."""


def moves_of(instance: Instance, packing: Packing) -> int:
    """Count running replicas that leave their place: stopped, moved, or started anew elsewhere."""
    held = collections.Counter(
        (i, item) for i, load in enumerate(packing.loads) for item in load.items
    )
    stays = collections.Counter((index, item) for index, item, _ in staying_items(instance)) & held
    return len(instance.request.running) - stays.total()


def price_of_a_move(request: PlanRequest, objective: Objective) -> float:
    """Return the price of one move: in a cost objective's unit, else as a share of the value."""
    if not request.running or request.move_price <= 0:
        return 0.0
    if not objective.is_cost:
        return request.move_price * DEVICE_SHARE
    costs = [device_cost(device, objective) or 0.0 for device in request.devices]
    return request.move_price * math.fsum(costs) / max(1, len(costs))


def with_moves(objective: Objective, value: float, moves: int, price: float) -> float:
    """Return a value with the price of its moves; it is no better than without."""
    return value + moves * price if objective.is_cost else value * (1 - moves * price)


def count_of_moves(instance: Instance, done: Applied) -> int:
    """Count replicas that run, could stay, and move or restart when a packing is applied."""
    return _count(instance, done.kept, done.placed) if instance.request.running else 0


def moves_made(instance: Instance, placements: tuple[Placement, ...]) -> int:
    """Count replicas that run, could stay, and move or restart under these placements."""
    old = {p.replica_id: p for p in instance.request.running}
    kept: collections.Counter[str] = collections.Counter()
    for new in placements:
        before = old.get(new.replica_id)
        kept[new.model] += before is not None and same_engine(before, new)
    return _count(instance, kept, collections.Counter(p.model for p in placements))


def _count(instance: Instance, kept: Mapping[str, int], placed: Mapping[str, int]) -> int:
    running = collections.Counter(p.model for p in instance.request.running)
    staying = collections.Counter[str]()
    for _, item, old in staying_items(instance):
        was, now = old.candidate.release, instance.items[item].candidate.release
        staying[old.model] += not (was and now) or was == now
    total = 0
    for model, could in staying.items():
        fresh = placed.get(model, 0) - kept.get(model, 0)
        must = running[model] - could
        total += max(0, min(could - kept.get(model, 0), fresh - must))
    return total
