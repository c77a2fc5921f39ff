"""Draws the explanation of a model's place, for people."""

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.plan.compare import what_if_view
from partitiond.cli.plan.words import milliseconds, number
from partitiond.core.plan.answers import ModelExplanation, SizeChoice
from partitiond.core.plan.record import Plan
from partitiond.core.units import format_bytes

MAX_SIZES = 10
"""Most sizes shown: the chosen ones and the best of the others."""


def explained_view(
    plan: Plan | None, why: ModelExplanation, width: int
) -> Iterator[RenderableType]:
    """Why here, why not one more, the possible sizes, and the next best with their cost."""
    yield Text(f"{why.model}: why {'nowhere' if plan is None else 'here'}", style="bold")
    yield _bullets(why.here)
    if why.not_more:
        yield Text("\nWhy not one more replica", style="bold")
        yield _bullets(why.not_more)
    if why.sizes:
        yield Text("\nSizes it could run at", style="bold")
        yield _sizes(why, wide=width >= 100)
    if why.alternatives:
        yield Text()
        yield from what_if_view(plan, why.alternatives, width, "The next best, and what it costs")


def _bullets(lines: tuple[str, ...]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("  -", Text(line))
    return grid


def _sizes(why: ModelExplanation, *, wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("size", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("req/s", justify="right", no_wrap=True)
    table.add_column("a device full", justify="right", no_wrap=True)
    if wide:
        table.add_column("TTFT ms", justify="right", no_wrap=True)
        table.add_column("TPOT ms", justify="right", no_wrap=True)
    kinds = len({size.hardware for size in why.sizes}) > 1
    if kinds:
        table.add_column("on", no_wrap=True)
    table.add_column("")
    shown = _telling(why.sizes)
    for size in shown:
        table.add_row(*_size_cells(size, wide=wide, kinds=kinds))
    if len(shown) < len(why.sizes):
        table.caption = f"... and {len(why.sizes) - len(shown)} more sizes (--json lists them all)"
        table.caption_justify = "left"
    return table


def _telling(sizes: tuple[SizeChoice, ...]) -> list[SizeChoice]:
    chosen = [size for size in sizes if size.replicas]
    others = [size for size in sizes if not size.replicas][: max(0, MAX_SIZES - len(chosen))]
    return [size for size in sizes if size in chosen or size in others]


def _size_cells(size: SizeChoice, *, wide: bool, kinds: bool) -> list[RenderableType]:
    style = "bold green" if size.replicas else ""
    cells: list[RenderableType] = [
        Text(f"{size.size} /{size.batch} {size.variant}".rstrip(), style=style),
        Text(format_bytes(size.memory_bytes)),
        Text(number(size.req_per_s)),
        Text(number(size.per_device_req_per_s)),
    ]
    if wide:
        cells.append(Text(milliseconds(size.ttft_p95_seconds)))
        cells.append(Text(milliseconds(size.tpot_p95_seconds)))
    if kinds:
        cells.append(Text(size.hardware))
    return [*cells, Text(size.note, style=style or "dim")]
