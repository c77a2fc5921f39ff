"""Compares two sides in alternation A B A B ...: medians, their ratio, interval of the difference.

Machines are noisy and drift. Each A therefore has a B right after it, the order flips from pair to
pair, and the interval is that of the paired differences.
"""

import dataclasses
import statistics
from collections.abc import Awaitable, Callable, Sequence

from loadgen.results.statistics import half_width


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median, with the lowest and the highest value: "2.0 (1.0..4.0)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}..{high:{form}})"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both sides.

    Attributes:
        ratio: median of ours over the median of the baseline.
        difference, half_width: mean of the paired differences and its 95 % half-width.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def ratio(self) -> float:
        base = statistics.median(self.baseline)
        return statistics.median(self.ours) / base if base else float("inf")

    @property
    def difference(self) -> float:
        return statistics.fmean(self._differences)

    @property
    def half_width(self) -> float:
        return half_width(self._differences)

    @property
    def _differences(self) -> list[float]:
        return [a - b for a, b in zip(self.ours, self.baseline, strict=True)]

    @property
    def shown(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return abs(self.difference) > self.half_width

    def line(self) -> str:
        verdict = "" if self.shown else "  (no difference shown: the interval holds 0)"
        return (
            f"{self.name:<34} {statistics.median(self.ours):>9.3f} "
            f"{statistics.median(self.baseline):>9.3f} {self.unit:<7} ratio {self.ratio:5.2f}  "
            f"difference {self.difference:+.3f} ± {self.half_width:.3f}{verdict}"
        )


async def alternate(
    pairs: int,
    ours: Callable[[int], Awaitable[dict[str, float]]],
    baseline: Callable[[int], Awaitable[dict[str, float]]],
    say: Callable[[str], None],
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Run both sides `pairs` times; the side that goes first flips with each pair."""
    first: list[dict[str, float]] = []
    second: list[dict[str, float]] = []
    for index in range(pairs):
        sides = [("ours", ours, first), ("baseline", baseline, second)]
        for label, run, kept in sides if index % 2 == 0 else reversed(sides):
            figures = await run(index)
            kept.append(figures)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            say(f"pair {index + 1}/{pairs} {label}: {shown}")
    return first, second


def compare(
    ours: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]], units: dict[str, str]
) -> list[Comparison]:
    """One comparison for each figure."""
    return [
        Comparison(
            name,
            unit,
            tuple(side[name] for side in ours),
            tuple(side[name] for side in baseline),
        )
        for name, unit in units.items()
    ]
