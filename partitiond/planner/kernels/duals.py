"""Duals of the linear relaxation of one device: few rows, many bounded columns."""

import numpy as np

from partitiond.planner.kernels import kernel, plain
from partitiond.planner.sites import Floats, Ints

AT_ZERO, AT_MOST, BASIC = 0, 1, 2
PIVOT = 1e-11
GAIN = 1e-9
ENDLESS = 1e30


@kernel
def multipliers(value: Floats, share: Floats, copies: Ints) -> Floats:
    """Duals of max value.x with share'x <= 1 and 0 <= x <= copies.

    Primal simplex with bounded variables and an explicit inverse. It may stop early or be off by
    rounding: what it returns is at least 0, and any such multipliers give a bound.
    """
    n, rows = share.shape
    basis = np.arange(n, n + rows)
    inverse = np.eye(rows)
    level = np.ones(rows)
    state = np.zeros(n + rows, np.int64)
    state[n:] = BASIC
    dual, column, move = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for _ in range(40 + 10 * rows):
        _set_duals(value, basis, inverse, dual)
        enter = _entering(value, share, state, dual)
        if enter < 0:
            break
        sign = 1.0 if state[enter] == AT_ZERO else -1.0
        most = float(copies[enter]) if enter < n else ENDLESS
        _set_column(share, inverse, enter, column)
        for k in range(rows):
            move[k] = sign * column[k]
        leave, step, at = _leaving(copies, basis, level, move, most)
        if step >= ENDLESS:
            break
        for k in range(rows):
            level[k] -= step * move[k]
        if leave < 0:
            state[enter] = AT_MOST - state[enter]
            continue
        state[basis[leave]] = at
        basis[leave], state[enter] = enter, BASIC
        level[leave] = step if sign > 0 else most - step
        _pivot(inverse, column, leave)
    for r in range(rows):
        dual[r] = max(0.0, dual[r])
    return dual


@plain
def _set_duals(value: Floats, basis: Ints, inverse: Floats, dual: Floats) -> None:
    rows = len(basis)
    for r in range(rows):
        dual[r] = 0.0
        for k in range(rows):
            if basis[k] < len(value):
                dual[r] += value[basis[k]] * inverse[k, r]


@plain
def _entering(value: Floats, share: Floats, state: Ints, dual: Floats) -> int:
    """The column with the largest gain; -1 where none gains anything."""
    n, rows = share.shape
    enter, gain = -1, GAIN
    for r in range(rows):
        gain += GAIN * abs(dual[r])
    for j in range(n + rows):
        if state[j] == BASIC:
            continue
        if j < n:
            worth = value[j]
            for r in range(rows):
                worth -= dual[r] * share[j, r]
        else:
            worth = -dual[j - n]
        if state[j] == AT_MOST:
            worth = -worth
        if worth > gain:
            enter, gain = j, worth
    return enter


@plain
def _set_column(share: Floats, inverse: Floats, enter: int, column: Floats) -> None:
    n, rows = share.shape
    for k in range(rows):
        column[k] = 0.0
        if enter < n:
            for r in range(rows):
                column[k] += inverse[k, r] * share[enter, r]
        else:
            column[k] = inverse[k, enter - n]


@plain
def _leaving(
    copies: Ints, basis: Ints, level: Floats, move: Floats, most: float
) -> tuple[int, float, int]:
    """Row that limits the step, the step, and where its variable ends; -1: the entering one."""
    leave, step, at = -1, most, AT_ZERO
    for k in range(len(basis)):
        if move[k] > PIVOT and max(0.0, level[k]) < step * move[k]:
            leave, step, at = k, max(0.0, level[k]) / move[k], AT_ZERO
        elif move[k] < -PIVOT and basis[k] < len(copies):
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
