"""Draws the answers to questions beside a plan, below the plan; explains a model's place."""

import dataclasses
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.plan.compare import (
    infeasible_view,
    relaxations_view,
    what_if_view,
)
from partitiond.cli.plan.words import milliseconds, number
from partitiond.core.plan.answers import ModelExplanation, PlanAnswers, SizeChoice
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.units import format_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class AnswersView:
    """All answers beside the plan, for any width from 60 columns."""

    plan: Plan | None
    infeasible: Infeasible | None
    answers: PlanAnswers

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw for the available width."""
        width, answers = min(options.max_width, 140), self.answers
        if self.infeasible is not None:
            yield from infeasible_view(self.infeasible)
        if answers.explanation is not None:
            yield from explained_view(self.plan, answers.explanation, width)
        if answers.what_if:
            yield from what_if_view(self.plan, answers.what_if, width)
        if answers.relaxations is not None:
            yield from relaxations_view(answers.relaxations, width)


MAX_SIZES = 10
"""Most sizes shown: the chosen ones and the best of the others."""


def explained_view(
    plan: Plan | None, why: ModelExplanation, width: int
) -> Iterator[RenderableType]:
    """Why here, why not one more, and the possible sizes."""
    yield Text(f"{why.model}: why {'nowhere' if plan is None else 'here'}", style="bold")
    yield _bullets(why.here)
    if why.not_more:
        yield Text("\nWhy not one more replica", style="bold")
        yield _bullets(why.not_more)
    if why.sizes:
        yield Text("\nSizes it could run at", style="bold")
        yield _sizes(why, wide=width >= 100)


def _bullets(lines: tuple[str, ...]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("  -", Text(line))
    return grid


def _sizes(why: ModelExplanation, *, wide: bool) -> Table:
    shown = _telling(why.sizes)
    kinds = len({size.hardware for size in why.sizes}) > 1
    table = table_of(
        shown,
        Column("size", _size, whole=True),
        Column(">memory", lambda s: format_bytes(s.memory_bytes), whole=True),
        Column(">req/s", lambda s: number(s.req_per_s), whole=True),
        Column(">a device full", lambda s: number(s.per_device_req_per_s), whole=True),
        Column(">TTFT ms", lambda s: milliseconds(s.ttft_p95_seconds), whole=True, shown=wide),
        Column(">TPOT ms", lambda s: milliseconds(s.tpot_p95_seconds), whole=True, shown=wide),
        Column("on", lambda s: s.hardware, whole=True, shown=kinds),
        Column("", lambda s: Text(s.note, style=_style(s) or "dim")),
    )
    if len(shown) < len(why.sizes):
        table.caption = f"... and {len(why.sizes) - len(shown)} more sizes (--json lists them all)"
        table.caption_justify = "left"
    return table


def _style(size: SizeChoice) -> str:
    return "bold green" if size.replicas else ""


def _size(size: SizeChoice) -> Text:
    return Text(f"{size.size} /{size.batch} {size.variant}".rstrip(), style=_style(size))


def _telling(sizes: tuple[SizeChoice, ...]) -> list[SizeChoice]:
    chosen = [size for size in sizes if size.replicas]
    others = [size for size in sizes if not size.replicas][: max(0, MAX_SIZES - len(chosen))]
    return [size for size in sizes if size in chosen or size in others]
