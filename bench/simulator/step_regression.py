"""Fits the duration of engine steps to what the steps did, by least squares.

The fit minimises the relative error, keeps coefficients non-negative and leaves out steps that
something else disturbed. Then all coefficients are scaled so that the predicted total time of all
steps is the measured one: the simulation has to serve as much as the engine did, stalls included.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.numbers.least_squares import non_negative, squared_error

TERMS: Final = 5
"""Base, tokens computed, sequences that decode, KV tokens read, requests taken in."""
LEAST_STEPS: Final = 50
"""Steps of a model that are needed: fewer say nothing about five terms. Chosen, not measured."""
DISTURBED: Final = 4.0
"""A step is left out if its relative error exceeds this many deviations of the errors. Chosen."""
LEAST_DISTURBED: Final = 0.05
"""A step with a smaller relative error is never left out: tiny errors have no outliers. Chosen."""
PER_MEDIAN: Final = 1.4826
"""Ratio of standard deviation to median absolute error, for normal errors: a standard value."""
ROUNDS: Final = 3
MOST_KAPPA: Final = 2.0
SECTIONS: Final = 24
"""Rounds without disturbed steps; largest kappa; steps of the search for kappa. All are chosen."""
GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True, slots=True)
class StepRow:
    """One step as an equation.

    Attributes:
        terms: what the step did, in the order of `TERMS`.
        seconds: its duration, less the time of client and proxy.
        others: mean number of other engines at work during the step.
    """

    terms: tuple[float, ...]
    seconds: float
    others: float


def fit_rows(
    models: Mapping[str, Sequence[StepRow]],
) -> tuple[float, dict[str, tuple[float, ...]]]:
    """Return kappa and each model's coefficients, scaled to the measured total step time."""
    kept = dict(models)
    kappa, found = _least_squares(kept)
    for _ in range(ROUNDS):
        kept = {model: _undisturbed(rows, found[model], kappa) for model, rows in models.items()}
        kappa, found = _least_squares(kept)
    for model, rows in models.items():
        predicted = math.fsum(_seconds(row, found[model], kappa) for row in rows)
        scale = math.fsum(row.seconds for row in rows) / predicted
        found[model] = tuple(scale * one for one in found[model])
    return kappa, found


def _undisturbed(
    rows: Sequence[StepRow], found: tuple[float, ...], kappa: float
) -> Sequence[StepRow]:
    off = [abs(_seconds(row, found, kappa) / row.seconds - 1) for row in rows]
    limit = max(LEAST_DISTURBED, DISTURBED * PER_MEDIAN * statistics.median(off))
    kept = [row for row, one in zip(rows, off, strict=True) if one <= limit]
    return kept if len(kept) >= LEAST_STEPS else rows


def _seconds(row: StepRow, found: tuple[float, ...], kappa: float) -> float:
    alone = math.fsum(a * x for a, x in zip(found, row.terms, strict=True))
    return alone * (1 + kappa * row.others)


def _least_squares(
    models: Mapping[str, Sequence[StepRow]],
) -> tuple[float, dict[str, tuple[float, ...]]]:
    """Return the kappa and the coefficients with the least sum of squared relative errors."""
    sums = {model: _Sums(rows) for model, rows in models.items()}

    def error(kappa: float) -> float:
        return math.fsum(one.solve(kappa)[1] for one in sums.values())

    shares = any(row.others for rows in models.values() for row in rows)
    kappa = _least(error, 0.0, MOST_KAPPA) if shares else 0.0
    return kappa, {model: one.solve(kappa)[0] for model, one in sums.items()}


def _least(of: Callable[[float], float], low: float, high: float) -> float:
    """Return the minimum point of a unimodal function, by golden section."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(SECTIONS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = of(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = of(right)
    return (low + high) / 2


class _Sums:
    """Holds the sums of products that least squares need, for any kappa.

    A row asks for terms / seconds * (1 + kappa * others) = 1, so products of two terms are a
    polynomial of kappa: the rows, which are many, are read only once.
    """

    def __init__(self, rows: Sequence[StepRow]) -> None:
        self._count = len(rows)
        self._terms = [[[0.0] * 3 for _ in range(TERMS)] for _ in range(TERMS)]
        self._wanted = [[0.0] * 2 for _ in range(TERMS)]
        for row in rows:
            others = row.others
            values = [term / row.seconds for term in row.terms]
            for i, one in enumerate(values):
                wanted = self._wanted[i]
                wanted[0] += one
                wanted[1] += one * others
                for j in range(i, TERMS):
                    product, sums = one * values[j], self._terms[i][j]
                    sums[0] += product
                    sums[1] += product * others
                    sums[2] += product * others * others

    def solve(self, kappa: float) -> tuple[tuple[float, ...], float]:
        """Return the coefficients, and the remaining sum of squares.

        `non_negative` needs only the products of the rows, and a triangle with one row per column
        (Cholesky) has the same products.
        """
        products = [
            [
                *((s[0] + 2 * kappa * s[1] + kappa**2 * s[2]) for s in self._terms[i]),
                self._wanted[i][0] + kappa * self._wanted[i][1],
            ]
            for i in range(TERMS)
        ]
        triangle = _cholesky([*products, [0.0] * TERMS + [float(self._count)]])
        rows, wanted = [line[:TERMS] for line in triangle], [line[TERMS] for line in triangle]
        found = non_negative(rows, wanted)
        return found, squared_error(rows, wanted, found)


def _cholesky(products: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the upper triangle R, R'R = `products` (upper half given); pivotless rows are 0."""
    size = len(products)
    found = [[0.0] * size for _ in range(size)]
    for i in range(size):
        pivot = products[i][i] - math.fsum(found[k][i] ** 2 for k in range(i))
        if pivot <= 1e-12 * products[i][i]:
            continue
        root = math.sqrt(pivot)
        for j in range(i, size):
            inner = math.fsum(found[k][i] * found[k][j] for k in range(i))
            found[i][j] = (products[i][j] - inner) / root
    return found
