"""Counts moves of replicas that run and could stay, as `planner.progress.moves` counts them."""

import collections
import dataclasses
from typing import Any

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables
from partitiond.planner.model.types import Instance


@dataclasses.dataclass(frozen=True, slots=True)
class Moves:
    """The price of moves.

    Attributes:
        units: price of one move, in 1 / PRICE_SCALE.
        staying: device and item of each replica that runs and could stay.
    """

    units: int
    staying: tuple[tuple[int, int], ...]


def moves_cost(
    model: cp_model.CpModel, instance: Instance, variables: Variables, moves: Moves
) -> Any:
    """Return a lower bound on the price of all moves; minimised, it equals that price.

    The moves of a model are the replicas that left the place where they run, or the replicas that
    start beyond those that had to move, whichever number is smaller.
    """
    runs = collections.Counter(moves.staying)
    there: dict[tuple[int, int], list[Any]] = collections.defaultdict(list)
    placed: dict[int, list[Any]] = collections.defaultdict(list)
    for (index, _, item), count in variables.count.items():
        there[index, item].append(count)
        placed[instance.items[item].model].append(count)
    kept: dict[int, list[Any]] = collections.defaultdict(list)
    staying: dict[int, int] = collections.Counter()
    for (index, item), number in runs.items():
        stays = model.new_int_var(0, number, f"stays_{index}_{item}")
        model.add(stays <= sum(there[index, item]))
        kept[instance.items[item].model].append(stays)
        staying[instance.items[item].model] += number
    names = [demand.model for demand in instance.request.models]
    total = []
    for number, could in staying.items():
        running = sum(p.model == names[number] for p in instance.request.running)
        moved = model.new_int_var(0, could, f"moves_{number}")
        by_stops = model.new_bool_var(f"stops_{number}")
        stays = sum(kept[number])
        model.add(moved >= could - stays).only_enforce_if(by_stops.negated())
        fresh = sum(placed[number]) - stays - (running - could)
        model.add(moved >= fresh).only_enforce_if(by_stops)
        total.append(moved)
    return moves.units * sum(total)
