"""Computes duals of the linear relaxation of one device: few rows, many bounded columns."""

import numpy as np

from partitiond.planner.kernels import kernel, plain
from partitiond.planner.model.sites import Floats, Ints

AT_ZERO, AT_MOST, BASIC = 0, 1, 2
PIVOT = 1e-11
GAIN = 1e-9


@kernel
def multipliers(value: Floats, share: Floats, copies: Ints) -> Floats:
    """Return duals of max value.x with share'x <= 1 and 0 <= x <= copies.

    Primal simplex with bounded variables and an explicit inverse. It may stop early or be off by
    rounding: the result is always at least 0, and any such multipliers give a bound.
    """
    n, rows = share.shape
    # The slack of each limit is a column of its own, worth nothing.
    columns = np.concatenate((share, np.eye(rows)))
    worth = np.concatenate((value, np.zeros(rows)))
    most = np.concatenate((copies, np.full(rows, np.inf)))
    basis = np.arange(n, n + rows)
    inverse = np.eye(rows)
    level = np.ones(rows)
    state = np.zeros(n + rows, np.int64)
    state[n:] = BASIC
    dual, column, move = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for _ in range(40 + 10 * rows):
        _set_duals(worth, basis, inverse, dual)
        enter = _entering(worth, columns, state, dual)
        if enter < 0:
            break
        sign = 1.0 if state[enter] == AT_ZERO else -1.0
        _set_column(columns[enter], inverse, column)
        for k in range(rows):
            move[k] = sign * column[k]
        leave, step, at = _leaving(most, basis, level, move, most[enter])
        if step == np.inf:
            break
        for k in range(rows):
            level[k] -= step * move[k]
        if leave < 0:
            state[enter] = AT_MOST - state[enter]
            continue
        state[basis[leave]] = at
        basis[leave], state[enter] = enter, BASIC
        level[leave] = step if sign > 0 else most[enter] - step
        _pivot(inverse, column, leave)
    for r in range(rows):
        dual[r] = max(0.0, dual[r])
    return dual


@plain
def _set_duals(worth: Floats, basis: Ints, inverse: Floats, dual: Floats) -> None:
    for r in range(len(basis)):
        dual[r] = 0.0
        for k in range(len(basis)):
            dual[r] += worth[basis[k]] * inverse[k, r]


@plain
def _entering(worth: Floats, columns: Floats, state: Ints, dual: Floats) -> int:
    """Return the column with the largest gain; -1 if no column gains anything."""
    enter, most = -1, GAIN
    for r in range(len(dual)):
        most += GAIN * abs(dual[r])
    for j in range(len(worth)):
        if state[j] == BASIC:
            continue
        gain = worth[j]
        for r in range(len(dual)):
            gain -= dual[r] * columns[j, r]
        if state[j] == AT_MOST:
            gain = -gain
        if gain > most:
            enter, most = j, gain
    return enter


@plain
def _set_column(entering: Floats, inverse: Floats, column: Floats) -> None:
    for k in range(len(column)):
        column[k] = 0.0
        for r in range(len(column)):
            column[k] += inverse[k, r] * entering[r]


@plain
def _leaving(
    copies: Floats, basis: Ints, level: Floats, move: Floats, most: float
) -> tuple[int, float, int]:
    """Return the row that limits the step (-1: the entering one), the step, and where it ends."""
    leave, step, at = -1, most, AT_ZERO
    for k in range(len(basis)):
        if move[k] > PIVOT and max(0.0, level[k]) < step * move[k]:
            leave, step, at = k, max(0.0, level[k]) / move[k], AT_ZERO
        elif move[k] < -PIVOT:
            free = max(0.0, copies[basis[k]] - level[k])
            if free < -step * move[k]:
                leave, step, at = k, free / -move[k], AT_MOST
    return leave, step, at


@plain
def _pivot(inverse: Floats, column: Floats, leave: int) -> None:
    rows = len(column)
    for r in range(rows):
        inverse[leave, r] /= column[leave]
    for k in range(rows):
        if k != leave and column[k] != 0.0:
            for r in range(rows):
                inverse[k, r] -= column[k] * inverse[leave, r]
