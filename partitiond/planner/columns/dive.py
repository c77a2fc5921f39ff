"""Makes a plan from the linear program: fixes its fullest columns, and solves what is left."""

from collections.abc import Callable, Sequence
from typing import Final

from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, Rest
from partitiond.planner.columns.master import BESIDE, Master, RowPrices

WHOLE: Final = 0.75
"""Part of a device from which on a column is fixed. Chosen."""
PART: Final = 0.02
"""Part of the free devices that is fixed at least each time, though no column fills one. Chosen."""
USED: Final = 1e-6
KEPT: Final = 600
"""Columns that the next linear program begins with, beside those in use. Chosen."""
FIRST: Final = (30, 8)
THEN: Final = (3, BESIDE)
"""Rounds of the first linear program and of those after it, and columns beside the best. Chosen."""
PER_ROUND, PER_BESIDE = 6, 16
"""Devices for which the first has a round, and a column beside, at least. Chosen."""


def dive(
    fleet: ColumnProblem,
    rest: Rest,
    known: Sequence[DeviceColumn] = (),
    *,
    priced: Callable[[RowPrices, RowPrices], None] = lambda *_: None,
    late: Callable[[], bool],
    hurry: Callable[[], bool],
    stop: Callable[[], bool],
) -> list[DeviceColumn]:
    """Return columns for what is left; `rest` becomes what is left beside them.

    Args:
        known: columns to begin with.
        priced: called with the last prices of the first linear program.
        late, hurry: True ends the search for more columns, of the first linear program and of those
            after it; columns that are known are fixed.
        stop: True ends the dive with the columns fixed so far.
    """
    devices, fixed = int(rest.free.sum()), list[DeviceColumn]()
    effort = (max(FIRST[0], devices // PER_ROUND), max(FIRST[1], devices // PER_BESIDE))
    while rest.free.any() and (rest.open.any() or (rest.count < fleet.least).any()):
        master = Master(fleet, rest, *effort)
        for column in known:
            master.add(column, [column.cls])
        priced(*master.converge(late))
        used = [
            (x, c) for x, c in zip(master.amount.tolist(), master.columns, strict=False) if x > USED
        ]
        used.sort(key=lambda u: -u[0])
        step = max(1, int(PART * int(rest.free.sum())))
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
        effort, late, priced = THEN, hurry, lambda *_: None
    return fixed
