"""Makes a plan from the linear program: fixes its fullest columns, and solves what is left."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, Rest
from partitiond.planner.columns.master import Effort, Master, RowPrices

WHOLE: Final = 0.75
"""Part of a device from which on a column is fixed. Chosen."""
USED: Final = 1e-6
NOISE: Final = 0.3
"""Largest random addition to an amount, in parts of it. Chosen."""
KEPT: Final = 600
"""Columns that the next linear program begins with, beside those in use. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dive:
    """How a dive is made.

    Attributes:
        first, then: effort of the first linear program and of those after it.
        step, part: devices, and part of the free ones, that are fixed at least each time, although
            no column fills one.
    """

    first: Effort
    then: Effort
    step: int = 1
    part: float = 0.02


def dive(
    fleet: ColumnProblem,
    rest: Rest,
    how: Dive,
    *,
    known: Sequence[DeviceColumn] = (),
    rng: random.Random | None = None,
    priced: Callable[[RowPrices, RowPrices], None] = lambda *_: None,
    hurry: Callable[[], bool],
    stop: Callable[[], bool],
) -> list[DeviceColumn]:
    """Return columns for what is left; `rest` becomes what is left beside them.

    Args:
        known: columns to begin with.
        rng: shakes which columns count as the fullest.
        priced: called every few rounds of the first linear program with prices.
        hurry: True ends the search for more columns; those that are known are fixed.
        stop: True ends the dive with the columns fixed so far.
    """
    fixed, effort = list[DeviceColumn](), how.first
    while rest.free.any() and (rest.open.any() or (rest.count < fleet.least).any()):
        master = Master(fleet, rest, effort)
        for column in known:
            master.add(column, [column.cls])
        master.converge(lambda: hurry() or stop(), priced)
        used = [
            (x, c) for x, c in zip(master.amount.tolist(), master.columns, strict=False) if x > USED
        ]
        used.sort(key=lambda u: -u[0] * (1 + NOISE * rng.random() if rng else 1))
        step = max(how.step, int(how.part * int(rest.free.sum())))
        new = list[DeviceColumn]()
        for amount, column in used:
            times = int(amount + 1 - WHOLE) if amount >= WHOLE else int(len(new) < step)
            for _ in range(min(times, int(rest.free[column.cls]))):
                fleet.take(rest, column)
                new.append(column)
        fixed += new
        if not new or stop():
            break
        known = [c for _, c in used] + master.columns[-KEPT:]
        effort, priced = how.then, lambda *_: None
    return fixed
