"""Compares the simulator's figures with the real system's, and counts those within their goals."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Final

GOALS: Final = {
    "output tokens/s": 0.1, "TTFT p50": 0.15, "TTFT p95": 0.15, "TPOT p50": 0.1, "TPOT p95": 0.1,
}  # fmt: skip
"""A figure with a larger error misses its goal; the other figures have no goal."""
FIGURES: Final = (
    "output tokens/s", "goodput/s", "refused", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One figure of one model at one load.

    Attributes:
        runs: measured values, run by run; all runs got the same requests.
        simulated: value simulated with the measured profiles.
    """

    load: float
    model: str
    figure: str
    runs: tuple[float, ...]
    simulated: float

    @property
    def measured(self) -> float:
        """The mean of the runs."""
        return statistics.fmean(self.runs)

    @property
    def repeatability(self) -> float:
        """The difference between the runs, computed in the same way as the errors."""
        return abs(self.off(max(self.runs)) - self.off(min(self.runs)))

    def off(self, simulated: float) -> float:
        """The error: a difference for the refused share, else relative to the measured value."""
        if self.figure == "refused" or not self.measured:
            return simulated - self.measured
        return simulated / self.measured - 1

    @property
    def within(self) -> bool | None:
        """Whether the figure reaches its goal; None without a goal or a measured value."""
        goal = GOALS.get(self.figure)
        if goal is None or not self.measured:
            return None
        return abs(self.off(self.simulated)) <= goal


def table(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each figure, then the errors by figure and the number that reach their goals."""
    yield (
        f"{'load':>5} {'model':<16} {'figure':<16} {'measured':>9} {'again':>7} {'simulated':>9}"
    )
    for row in rows:
        yield (
            f"{row.load:>5.2f} {row.model:<16} {row.figure:<16} {row.measured:>9.4g} "
            f"{row.repeatability:>7.1%} {row.off(row.simulated):>+9.1%}"
            f"{'  misses its goal' if row.within is False else ''}"
        )
    yield "\nabsolute errors (of refused: difference in share); again: of two runs alike"
    for figure in FIGURES:
        mine = [row for row in rows if row.figure == figure]
        if not mine:
            continue
        columns = {
            "again": [row.repeatability for row in mine],
            "simulated": [abs(row.off(row.simulated)) for row in mine],
        }
        told = "  ".join(
            f"{name} {statistics.median(errors):>6.1%} (worst {max(errors):>6.1%})"
            for name, errors in columns.items()
        )
        judged = [row.within for row in mine if row.within is not None]
        goal = (
            f"  {sum(judged)} of {len(judged)} within {GOALS[figure]:.0%}"
            if figure in GOALS
            else ""
        )
        yield f"  {figure:<16} {told}{goal}"
