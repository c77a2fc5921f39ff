"""Draws a profile beside its table of points: named points, memory, capacity, provenance."""

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, bare_fields, table_of, time_text, titled
from partitiond.cli.profile.table import profile_table
from partitiond.cli.tables import core_list, duration, rate
from partitiond.core.model.spec import Slo
from partitiond.core.profile.operating_points import NAMED, goodput_req_per_s, named_point
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile, capacity_req_per_s, operating_point
from partitiond.core.profile.staleness import command_for
from partitiond.core.units import format_bytes, format_duration
from partitiond.core.views.lists import ProfileView

Pair = tuple[str, str]


def profile_details(view: ProfileView, slo: Slo | None) -> RenderableType:
    """Everything in a profile, and whether the profile is stale; --json has intervals, telemetry
    and sharing as well.

    Args:
        slo: the registered model's, for the points that need one.
    """
    profile, parts = view.profile, list[RenderableType]()
    if view.stale:
        again = f"Measure it anew: {command_for(profile)}"
        parts.append(Text(f"stale: {'; '.join(view.stale)}. {again}", style="yellow"))
    parts.append(profile_table(profile))
    parts.append(titled("Operating points by name", _named(profile, slo)))
    parts.append(titled("Memory", _memory(profile)))
    parts.append(titled("Capacity", _capacity(profile, slo)))
    parts.append(titled("How it came to be", bare_fields(_provenance(profile))))
    return Group(*parts)


def _named(profile: Profile, slo: Slo | None) -> RenderableType:
    named = [(name.value, named_point(profile, name, slo)) for name in NAMED]

    def good(point: OperatingPoint) -> float | None:
        return None if slo is None else goodput_req_per_s(profile, point, slo)

    return table_of(
        [(name, point) for name, point in named if point is not None],
        Column("name", lambda row: row[0]),
        Column(">batch", lambda row: str(row[1].batch)),
        Column(">tok/s", lambda row: rate(row[1].output_tokens_per_s)),
        Column(">req/s", lambda row: rate(row[1].req_per_s)),
        Column(">good/s", lambda row: rate(good(row[1]))),
        Column(">TPOT p95", lambda row: duration(row[1].tpot.p95)),
        Column(">J/token", lambda row: rate(row[1].joules_per_output_token)),
    )


def _memory(profile: Profile) -> RenderableType:
    terms = profile.footprint
    rows = [
        ("weights", format_bytes(terms.weights_bytes)),
        ("KV cache", f"{format_bytes(terms.kv_cache_bytes)} ({profile.kv_cache_tokens} tokens)"),
        ("activations", format_bytes(terms.activation_bytes)),
        ("CUDA graphs", format_bytes(terms.graph_bytes) if terms.graph_bytes else ""),
        ("context and libraries", format_bytes(terms.context_bytes)),
        ("unexplained", _signed(terms.unexplained_bytes)),
        ("peak", format_bytes(terms.peak_bytes)),
        ("frontier memory", _frontier_memory(profile)),
    ]
    return bare_fields([row for row in rows if row[1]])


def _signed(count: int) -> str:
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)


def _frontier_memory(profile: Profile) -> str:
    found = profile.frontier_memory
    if found is None:
        return "not looked for"
    text = (
        f"{format_bytes(found.footprint_bytes)} at batch {found.batch} "
        f"({format_bytes(found.kv_cache_bytes)} of KV cache)"
    )
    if found.output_tokens_per_s is None:
        return f"{text}, computed; no start confirmed it"
    word = "confirmed" if found.confirmed else "NOT confirmed"
    half = f" +- {rate(found.half_width)}" if found.half_width else ""
    return (
        f"{text}, {word} by a start there: {rate(found.output_tokens_per_s)}{half} tokens/s, "
        f"{found.preemptions} preemptions"
    )


def _capacity(profile: Profile, slo: Slo | None) -> RenderableType:
    point = operating_point(profile, slo)
    rows: list[Pair] = []
    if point is None:
        rows.append(("planned", "no measured batch holds the SLO"))
    else:
        how = (
            "confirmed by open-loop trials"
            if profile.capacity_req_per_s is not None
            else "80 % of the closed loop's; not confirmed"
        )
        planned = capacity_req_per_s(profile, point)
        rows.append(("planned", f"{rate(planned)} requests/s at batch {point.batch}, {how}"))
    rows += [
        (
            f"trial {number}",
            f"{rate(trial.req_per_s)} requests/s at batch {trial.batch} for "
            f"{format_duration(trial.seconds)}: {trial.attainment:.1%} good, "
            f"{'held' if trial.held else 'not held'}",
        )
        for number, trial in enumerate(profile.capacity_trials, start=1)
    ]
    paper = profile.paper_mode
    if paper is not None:
        rows.append(
            (
                "paper's mode",
                f"{paper.requests} requests at once: {rate(paper.req_per_s)} requests/s, "
                f"mean latency {duration(paper.mean_e2el_seconds)} (limit {paper.batch})",
            )
        )
    return bare_fields(rows)


def _transferred(profile: Profile) -> str:
    found = profile.transfer
    if found is None:
        return ""
    return f"{found.method}, within {found.error_share:.0%}, from {', '.join(found.source_ids)}"


def _provenance(profile: Profile) -> list[Pair]:
    made = profile.provenance
    budget, took = profile.max_num_batched_tokens, format_duration(made.duration_seconds)
    rows = (
        ("profile", profile.id),
        ("command", made.command),
        ("engine", f"{made.engine} {made.engine_version}".strip()),
        ("flags", " ".join(made.engine_args)),
        ("tokens of a step", str(budget) if budget else ""),
        ("KV cache dtype", profile.kv_cache_dtype),
        ("source", made.source),
        ("weights", made.weights),
        ("model revision", made.model_revision or ""),
        ("device", f"{made.device_name or made.hardware}, driver {made.driver or 'unknown'}"),
        ("cores", core_list(made.host_cores)),
        ("transferred", _transferred(profile)),
        ("seed", str(made.seed)),
        ("measured", f"{time_text(made.started_at)}, took {took}"),
        ("partitiond", made.partitiond_version),
        *(("note", note) for note in made.notes),
    )
    return [(name, value) for name, value in rows if value]
