"""Solves non-negative least squares of a few terms exactly, in plain Python.

The problem is min |A x - y|^2 with x >= 0. At the optimum the positive coefficients solve the
unconstrained problem on their own columns. A step time has only a handful of terms, so every set
of columns is tried and the best feasible one is kept. This needs no tolerance and no iteration
limit; the caller's order of preference breaks ties.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

_SINGULAR: Final = 1e-10
"""A column of unit length whose pivot is smaller counts as parallel to the others."""

_TIE: Final = 1e-9
"""A sum of squares counts as better only if it is smaller by at least this share."""

Matrix = Sequence[Sequence[float]]


def non_negative(rows: Matrix, wanted: Sequence[float]) -> tuple[float, ...]:
    """Return coefficients >= 0 that minimise the sum of squared differences.

    Args:
        rows: one row per observation, one column per term.
        wanted: one value per row.

    Returns:
        One coefficient per column; all 0 if no set of columns fits better than zeros. Of sets that
        fit equally well, the smaller one wins, then the one with earlier columns.
    """
    columns = len(rows[0]) if rows else 0
    best = (0.0,) * columns
    best_error = math.fsum(value * value for value in wanted)
    for count in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), count):
            found = _on_columns(rows, wanted, chosen)
            if found is None or min(found) < 0:
                continue
            spread = dict(zip(chosen, found, strict=True))
            full = tuple(spread.get(n, 0.0) for n in range(columns))
            error = squared_error(rows, wanted, full)
            if error < best_error * (1 - _TIE):
                best, best_error = full, error
    return best


def squared_error(rows: Matrix, wanted: Sequence[float], found: Sequence[float]) -> float:
    """Return the sum of the squared differences."""
    return math.fsum(
        (math.fsum(a * x for a, x in zip(row, found, strict=True)) - y) ** 2
        for row, y in zip(rows, wanted, strict=True)
    )


def _on_columns(
    rows: Matrix, wanted: Sequence[float], chosen: tuple[int, ...]
) -> tuple[float, ...] | None:
    """Return the unconstrained least squares on some columns by their normal equations; None if
    singular.

    Columns are scaled to unit length first: seconds per step and per token differ by a million.
    """
    lengths = [math.sqrt(math.fsum(row[n] ** 2 for row in rows)) for n in chosen]
    if not all(length > 0 for length in lengths):
        return None
    scaled = [[row[n] / s for n, s in zip(chosen, lengths, strict=True)] for row in rows]
    size = len(chosen)
    table = [
        [math.fsum(row[i] * row[j] for row in scaled) for j in range(size)]
        + [math.fsum(row[i] * y for row, y in zip(scaled, wanted, strict=True))]
        for i in range(size)
    ]
    solved = _eliminate(table)
    if solved is None:
        return None
    return tuple(x / s for x, s in zip(solved, lengths, strict=True))


def _eliminate(table: list[list[float]]) -> list[float] | None:
    """Solve a symmetric positive definite system with its right-hand side as last column."""
    size = len(table)
    for i in range(size):
        pivot = max(range(i, size), key=lambda n: abs(table[n][i]))
        table[i], table[pivot] = table[pivot], table[i]
        if abs(table[i][i]) < _SINGULAR:
            return None
        for n in range(i + 1, size):
            factor = table[n][i] / table[i][i]
            table[n] = [a - factor * b for a, b in zip(table[n], table[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = math.fsum(table[i][j] * found[j] for j in range(i + 1, size))
        found[i] = (table[i][size] - known) / table[i][i]
    return found
