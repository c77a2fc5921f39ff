"""Renders tables of the figures, ratios to the other proxies, and the goals beside them."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.proxy import measure
from bench.proxy.measure import DIRECT, Results

OURS: Final = "ours"
HOPS: Final = (("hop", OURS), ("nginx-hop", "nginx"))
"""What passes a second proxy, and the same with one proxy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of our figures.

    Attributes:
        base: proxy whose figure is the divisor, or empty for an absolute bound.
        times_cheaper: the bound is a lower one, on their figure divided by ours.
        proxy: the proxy whose figure is bounded.
    """

    figure: str
    base: str
    bound: float
    times_cheaper: bool = False
    proxy: str = OURS

    def reached(self, results: Results) -> list[float]:
        """The values reached, round by round; empty if nothing was measured."""
        if self.times_cheaper:
            return results.ratios(self.base, self.proxy, self.figure)
        if self.base:
            return results.ratios(self.proxy, self.base, self.figure)
        if self.figure == measure.LOST:
            total = results.median(self.proxy, self.figure)
            return [] if total is None else [total]
        return results.values.get(self.proxy, {}).get(self.figure, [])

    def met(self, value: float) -> bool:
        """Whether this value meets the goal."""
        return value >= self.bound if self.times_cheaper else value <= self.bound


GOALS: Final = (
    Goal(measure.CPU_REQUEST, "nginx", 1.8),
    Goal(measure.CPU_REQUEST, "vllm-router", 0.7),
    Goal(measure.CPU_REQUEST, "httpx", 50, times_cheaper=True),
    Goal(measure.CPU_REQUEST, "litellm", 150, times_cheaper=True),
    Goal(measure.CPU_REQUEST, OURS, 1.1, proxy="ours:2"),
    Goal(measure.CPU_CHUNK, "nginx", 1.2),
    Goal(measure.CPU_CHUNK, "vllm-router", 1.0),
    Goal(measure.USER_CHUNK, "", 2.0),
    Goal(measure.CORES, "", 0.5),
    Goal(measure.LOST, "", 0),
    Goal(measure.ADDED_P50, "nginx", 1.3),
    Goal(measure.DELAY_P99, "nginx", 2.0),
    Goal(measure.ADDED_P50, OURS, 2.6, proxy="hop"),
    Goal(measure.CPU_CHUNK, OURS, 3.0, proxy="hop"),
)


def number(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure_lines(results: Results, proxies: Sequence[str]) -> Iterator[str]:
    """All medians: a line for each figure, a column for each proxy."""
    names = [name for name in proxies if name in results.values]
    figures = list(dict.fromkeys(f for name in names for f in results.values[name]))
    yield f"{'':36}" + "".join(f"{name:>13}" for name in names)
    for figure in figures:
        cells = (number(results.median(name, figure)) for name in names)
        yield f"{figure:36}" + "".join(f"{cell:>13}" for cell in cells)


def ratio_lines(results: Results, bases: Sequence[str]) -> Iterator[str]:
    """Ours divided by each of the others, with the range over the rounds."""
    others = [name for name in bases if name in results.values and name not in (OURS, DIRECT)]
    if not others or OURS not in results.values:
        return
    yield f"{'ours divided by':36}" + "".join(f"{name:>22}" for name in others)
    for figure in results.values[OURS]:
        if figure in measure.COUNTED | {measure.OTHERS}:
            continue
        yield f"{figure:36}" + "".join(
            f"{ratio_text(results.ratios(OURS, name, figure)):>22}" for name in others
        )


def hop_lines(results: Results) -> Iterator[str]:
    """What passes two proxies divided by what passes one, with the range over the rounds."""
    pairs = [pair for pair in HOPS if all(name in results.values for name in pair)]
    if not any(hop == "hop" for hop, _ in pairs):
        return
    yield f"{'two proxies divided by one':36}" + "".join(f"{hop:>22}" for hop, _ in pairs)
    for figure in (measure.CPU_REQUEST, measure.ADDED_P50, measure.CPU_CHUNK, measure.DELAY_P50):
        cells = [ratio_text(results.ratios(hop, local, figure)) for hop, local in pairs]
        if cells != ["-"] * len(cells):
            yield f"{figure:36}" + "".join(f"{cell:>22}" for cell in cells)


def ratio_text(ratios: Sequence[float]) -> str:
    """Median and range."""
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def goal_lines(results: Results) -> Iterator[str]:
    """One line for each measured goal: met or missed."""
    for goal in GOALS:
        reached = goal.reached(results)
        if not reached:
            continue
        value = statistics.median(reached)
        against = "" if not goal.base else f", {goal.base} = 1"
        if goal.times_cheaper:
            against = f", times cheaper than {goal.base}"
        who = "" if goal.proxy == OURS else f" of {goal.proxy}"
        spread = f" ({number(min(reached))}..{number(max(reached))})" if len(reached) > 1 else ""
        sign = ">=" if goal.times_cheaper else "<="
        yield (
            f"{'met   ' if goal.met(value) else 'MISSED'}  {number(value):>8} {sign} "
            f"{goal.bound:<5g} {goal.figure}{who}{against}{spread}"
        )


def as_json(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """All results, for storage."""
    goals = [
        {
            **dataclasses.asdict(goal),
            "reached": statistics.median(reached),
            "met": goal.met(statistics.median(reached)),
        }
        for goal in GOALS
        if (reached := goal.reached(results))
    ]
    medians = {
        name: {figure: results.median(name, figure) for figure in kept}
        for name, kept in results.values.items()
    }
    return {**facts, "medians": medians, "rounds": results.values, "goals": goals}
