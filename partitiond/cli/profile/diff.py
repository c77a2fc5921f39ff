"""Draws two profiles side by side, for people."""

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import new_table
from partitiond.cli.tables import duration, rate
from partitiond.core.profile.diff import ProfileDiff, ProfileFigure
from partitiond.core.units import format_bytes


def diff_table(diff: ProfileDiff) -> RenderableType:
    """Whether the profiles can be compared, their differences, the figures, and the points."""
    parts: list[RenderableType] = [Text(f"A  {diff.first}\nB  {diff.second}", style="bold")]
    if diff.incomparable:
        why = "\n".join(f"  {reason}" for reason in diff.incomparable)
        parts.append(
            Text(f"Not the same thing was measured; ratios say little:\n{why}", style="yellow")
        )
    if diff.differences:
        parts.append(Text("Also different:\n" + "\n".join(f"  {d}" for d in diff.differences)))
    parts.append(_figures(diff))
    if diff.points:
        parts.append(_points(diff))
    parts.append(Text(_legend(diff)))
    return Group(*parts)


def _figures(diff: ProfileDiff) -> RenderableType:
    table = new_table("figure", ">A", ">B", ">B/A", "beyond the intervals")
    for figure in diff.figures:
        name, _, unit = figure.name.partition(", ")
        table.add_row(
            f"{name}, {unit}" if unit not in {"bytes"} else name,
            _value(figure.first, unit),
            _value(figure.second, unit),
            _ratio(figure),
            "not known" if figure.differs is None else ("yes" if figure.differs else "no"),
        )
    return table


def _points(diff: ProfileDiff) -> RenderableType:
    table = new_table(
        ">batch", ">tok/s A", ">tok/s B", ">B/A", "", ">TPOT p95 A", ">TPOT p95 B", ">B/A", ""
    )
    for point in diff.points:
        speed, tpot = point.output_tokens_per_s, point.tpot_p95_seconds
        table.add_row(
            str(point.batch),
            rate(speed.first),
            rate(speed.second),
            _ratio(speed),
            _mark(speed),
            duration(tpot.first),
            duration(tpot.second),
            _ratio(tpot),
            _mark(tpot),
        )
    return table


def _legend(diff: ProfileDiff) -> str:
    lines = ["! beyond the intervals   = within them   ? not known"] if diff.points else []
    for which, batches in (("A", diff.only_first), ("B", diff.only_second)):
        if batches:
            lines.append(f"only in {which}: batch {', '.join(map(str, batches))}")
    return "\n".join(lines)


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return format_bytes(int(value))
    return f"{value:.0f}" if unit in {"batch", "tokens"} else rate(value)


def _ratio(figure: ProfileFigure) -> str:
    return "-" if figure.ratio is None else f"{figure.ratio:.3g}"


def _mark(figure: ProfileFigure) -> str:
    return "?" if figure.differs is None else ("!" if figure.differs else "=")
