"""Draws a profile as a table of batches, frontier and knee marked; draws lists of profiles."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.ids import short_ids
from partitiond.cli.tables import duration, rate
from partitiond.core.model.workload import LengthShape
from partitiond.core.profile.knee import frontier
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile, capacity_req_per_s, operating_point
from partitiond.core.units import GIB, format_duration
from partitiond.core.views.lists import ProfileView


def profile_table(profile: Profile) -> RenderableType:
    """The heading, the measured points, and their meaning."""
    on_frontier = {point.batch for point in frontier(profile.points)}
    knee = profile.knee.batch
    table = table_of(
        sorted(profile.points, key=lambda p: p.batch),
        Column(">batch", lambda p: str(p.batch)),
        Column(">tok/s", lambda p: rate(p.output_tokens_per_s)),
        Column(">+-", _half_width),
        Column(">req/s", lambda p: rate(p.req_per_s)),
        Column(">TTFT p95", lambda p: duration(p.ttft.p95)),
        Column(">TPOT p95", lambda p: duration(p.tpot.p95)),
        Column(">latency", lambda p: duration(p.e2el.mean)),
        Column(">GiB", lambda p: f"{p.footprint_bytes / GIB:.3g}"),
        Column("", lambda p: _marks(p, p.batch in on_frontier, p.batch == knee)),
        bold=lambda p: p.batch == knee,
    )
    return Group(Text(_heading(profile), style="bold"), table, Text(_meaning(profile)))


def _half_width(point: OperatingPoint) -> str:
    if point.output_tokens_per_s <= 0 or point.half_width <= 0:
        return "-"
    share = f"{point.half_width / point.output_tokens_per_s:.0%}"
    return f"{share}~" if point.wide else share


def _marks(point: OperatingPoint, on_frontier: bool, is_knee: bool) -> str:
    words = ["*"] if on_frontier else []
    if is_knee:
        words.append("knee")
    if point.kv_limited:
        words.append("KV-limited")
    return " ".join(words)


def _heading(profile: Profile) -> str:
    made = profile.provenance
    weights = ", dummy weights" if made.weights == "dummy" else ""
    variant = f" {profile.variant}" if profile.variant else ""
    constrained = ", structured output" if profile.structured_output else ""
    return (
        f"{profile.model}{variant}: {profile.kind.value} on "
        f"{made.device_name or profile.hardware} ({profile.size.key}), {_lengths(profile)}, "
        f"{profile.dtype}{weights}{constrained}"
    )


def _lengths(profile: Profile) -> str:
    load = profile.workload
    means = f"{load.prompt_tokens} tokens in, {load.output_tokens} out"
    match load.shape:
        case LengthShape.LOGNORMAL:
            return f"{means} (lognormal {load.prompt_variation:g}/{load.output_variation:g})"
        case LengthShape.TRACE:
            return f"{means} (trace of {len(load.pairs)})"
        case _:
            return means


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


def profiles_table(
    views: Sequence[ProfileView], now: datetime | None = None, *, wide: bool = True
) -> RenderableType:
    """Kept profiles, one line each; below the table, why some are stale.

    Args:
        now: the time that ages count to; the present if absent.
        wide: with variant, kind of figures, partition and workload.
    """
    if not views:
        return "No profiles yet. Measure one: partitiond profile smollm2-135m"
    then = now or datetime.now(UTC)
    short = short_ids({view.profile.id: _with_hardware(view.profile) for view in views})
    variants = wide and any(view.profile.variant for view in views)
    table = table_of(
        [view.profile for view in views],
        Column("profile", lambda p: short[p.id], whole=True, shown=wide),
        Column("model", lambda p: p.model, shown=not wide),
        Column("variant", lambda p: p.variant or "-", whole=True, shown=variants),
        Column("figures", lambda p: p.kind.value, whole=True, shown=wide),
        Column("on", lambda p: p.size.key, whole=True, shown=wide),
        Column(">workload", lambda p: p.workload.key, whole=True, shown=wide),
        Column(">knee", _knee, whole=True),
        Column(">tok/s", lambda p: rate(p.knee.best_output_tokens_per_s), whole=True),
        Column(">req/s", _capacity, whole=True),
        Column(">GiB", lambda p: f"{p.footprint.peak_bytes / GIB:.3g}", whole=True),
        Column(">age", lambda p: age(p.provenance.started_at, then), whole=True),
    )
    # In a narrow terminal the ids stand below, in the same order: they are never broken or cut.
    ids = [Text(f"  {each}", no_wrap=True, overflow="ignore") for each in short.values()]
    notes = [] if wide else ids
    notes += [Text(f"{short[v.profile.id]}: {'; '.join(v.stale)}") for v in views if v.stale]
    if any(view.profile.capacity_req_per_s is None for view in views):
        words = "~ not confirmed by an open-loop trial: 80 % of the closed loop's rate"
        notes.append(Text(words))
    return Group(table, *notes)


def _with_hardware(profile: Profile) -> str:
    """The id up to its hardware: it names model and hardware, so the table does not."""
    before, named, _ = profile.id.partition(profile.hardware)
    return before + named if named else profile.model


def _knee(profile: Profile) -> str:
    knee = profile.knee.batch
    return f">{profile.knee.largest_batch}" if knee is None else str(knee)


def _capacity(profile: Profile) -> str:
    point = operating_point(profile, profile.slo)
    if point is None:
        return "-"
    mark = "" if profile.capacity_req_per_s is not None else "~"
    return f"{mark}{rate(capacity_req_per_s(profile, point))}"


def age(started_at: str, now: datetime) -> str:
    """The time since then in the largest unit that fits; a dash if it is not known."""
    try:
        then = datetime.fromisoformat(started_at)
    except ValueError:
        return "-"
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = max(0.0, (now - then).total_seconds())
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
