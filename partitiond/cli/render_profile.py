"""The measured table: one row per batch size, frontier and knee marked."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from partitiond.cli.render import duration, new_table, rate
from partitiond.core.frontier import frontier
from partitiond.core.profile import OperatingPoint, Profile
from partitiond.core.units import GIB, format_duration


def profile_table(profile: Profile) -> RenderableType:
    """Heading, measured points, and what they mean."""
    on_frontier = {point.batch for point in frontier(profile.points)}
    table = new_table(
        ">batch", ">tok/s", ">+-", ">req/s", ">TTFT p95", ">TPOT p95", ">latency", ">GiB", ""
    )
    for point in sorted(profile.points, key=lambda p: p.batch):
        is_knee = point.batch == profile.knee.batch
        table.add_row(
            str(point.batch),
            rate(point.output_tokens_per_s),
            _half_width(point),
            rate(point.req_per_s),
            duration(point.ttft.p95),
            duration(point.tpot.p95),
            duration(point.e2el.mean),
            f"{point.footprint_bytes / GIB:.3g}",
            _marks(point, on_frontier=point.batch in on_frontier, is_knee=is_knee),
            style="bold" if is_knee else "",
        )
    return Group(Text(_heading(profile), style="bold"), table, Text(_meaning(profile)))


def _half_width(point: OperatingPoint) -> str:
    if point.output_tokens_per_s <= 0 or point.half_width <= 0:
        return "-"
    share = f"{point.half_width / point.output_tokens_per_s:.0%}"
    return f"{share}~" if point.wide else share


def _marks(point: OperatingPoint, *, on_frontier: bool, is_knee: bool) -> str:
    words = ["*"] if on_frontier else []
    if is_knee:
        words.append("knee")
    if point.kv_limited:
        words.append("KV-limited")
    return " ".join(words)


def _heading(profile: Profile) -> str:
    made = profile.provenance
    weights = ", dummy weights" if made.weights == "dummy" else ""
    return (
        f"{profile.model}: {profile.kind.value} on {made.device_name or profile.hardware} "
        f"({profile.size.key}), {profile.workload.prompt_tokens} tokens in, "
        f"{profile.workload.output_tokens} out, {profile.dtype}{weights}"
    )


def _meaning(profile: Profile) -> str:
    lines = ["* frontier: no other point beats it in throughput, TPOT and memory at once"]
    lines.append(_knee_sentence(profile))
    if any(point.wide for point in profile.points):
        lines.append("~ the interval was still wider than wanted when the window had to close")
    if any(point.kv_limited for point in profile.points):
        lines.append("KV-limited: the KV cache held it back, so it cannot be the knee")
    made = profile.provenance
    lines.append(
        f"{made.engine} {made.engine_version}, took {format_duration(made.duration_seconds)}, "
        f"profile {profile.id}"
    )
    return "\n".join(lines)


def _knee_sentence(profile: Profile) -> str:
    knee = profile.knee
    best = f"{rate(knee.best_output_tokens_per_s)} tokens/s"
    if knee.batch is None:
        why = knee.limited_by.value if knee.limited_by else "unknown"
        return (
            f"no knee: throughput still grew at batch {knee.largest_batch} "
            f"(ended by {why}), best {best}"
        )
    span = ""
    if knee.low is not None and knee.high is not None and knee.low != knee.high:
        span = f" (between {knee.low} and {knee.high} by the intervals)"
    return (
        f"knee at batch {knee.batch}{span}: more requests at once gain less than "
        f"{knee.tolerance:.0%} of the best, {best}"
    )


def profiles_table(profiles: Sequence[Profile]) -> RenderableType:
    """Kept profiles, one line each, or two where the line is too short for the ids."""
    if not profiles:
        return "No profiles yet. Measure one: partitiond profile smollm2-135m"
    return _ProfileList(profiles)


class _ProfileList:
    """The id is what the next command needs: it is never broken or cut."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._profiles = profiles

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = _profile_rows(self._profiles, with_id=True)
        if (
            console.measure(whole, options=options.update(width=10_000)).maximum
            <= options.max_width
        ):
            yield whole
            return
        table = _profile_rows(self._profiles, with_id=False)
        table.show_edge = False
        lines = console.render_lines(table, options, pad=False)
        first = len(lines) - len(self._profiles)
        for index, line in enumerate(lines):
            yield from line
            yield Segment.line()
            if index >= first:
                yield Segment(f"  {self._profiles[index - first].id}")
                yield Segment.line()


def _profile_rows(profiles: Sequence[Profile], *, with_id: bool) -> Table:
    headers = ("profile",) if with_id else ()
    table = new_table(*headers, "model", "kind", "on", ">workload", ">knee", ">tok/s")
    for column in table.columns:
        column.no_wrap = column.header not in {"model", "on"}
    for profile in profiles:
        knee = profile.knee.batch
        table.add_row(
            *((profile.id,) if with_id else ()),
            _shortened(profile.model),
            profile.kind.value,
            _shortened(f"{profile.hardware} {profile.size.key}"),
            profile.workload.key,
            f">{profile.knee.largest_batch}" if knee is None else str(knee),
            rate(profile.knee.best_output_tokens_per_s),
        )
    return table


def _shortened(text: str) -> Text:
    """A cell that stays on one line."""
    return Text(text, no_wrap=True, overflow="ellipsis")
