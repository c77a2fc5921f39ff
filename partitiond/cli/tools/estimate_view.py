"""Draws estimates and comparisons as tables of at most 80 columns."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.tables import duration, rate
from partitiond.core.model.spec import ModelSpec, Slo
from partitiond.core.performance.comparison import DeviceOption
from partitiond.core.performance.estimate_report import EstimateReport
from partitiond.core.performance.replicas import best_replication
from partitiond.core.units import format_bytes

MATCH = "match: how many of these devices give as much as the strongest one here"


def estimate_table(report: EstimateReport, slo: Slo | None) -> RenderableType:
    """Memory, frontier and replicas, and the assumptions behind them."""
    where = (
        report.hardware
        if report.partition == "whole"
        else (f"{report.hardware} ({report.partition})")
    )
    precision = " ".join(
        part
        for part in (
            report.dtype,
            report.quantization and f"weights {report.quantization}",
            report.kv_cache_dtype != "auto" and f"KV {report.kv_cache_dtype}",
        )
        if part
    )
    heading = f"{report.model} on {where}, {report.workload}, {precision}: an estimate"
    return Group(
        Text(heading, style="bold"),
        _memory(report),
        *((_frontier(report),) if report.points else ()),
        *_replicas(report),
        Text("\n".join(_meaning(report, slo))),
    )


def _memory(report: EstimateReport) -> RenderableType:
    foot = report.footprint
    batch = report.operating_batch or 1
    rows = (
        (_owner(report), report.memory_bytes, ""),
        ("budget", report.budget_bytes, f"{report.memory_fraction:.0%}, headroom left free"),
        ("weights", report.weights_bytes, f"{report.parameters / 1e6:,.0f} M parameters"),
        ("KV cache per token", report.kv_bytes_per_token, ""),
        (f"footprint at batch {batch}", foot.peak_bytes, _terms(report)),
    )
    return table_of(
        rows,
        Column("memory", lambda row: row[0]),
        Column(">", lambda row: format_bytes(row[1])),
        Column("", lambda row: row[2]),
    )


def _owner(report: EstimateReport) -> str:
    """The owner of the memory."""
    kind = report.partition.partition("-")[0]
    return {"mig": "MIG slice", "cores": "host"}.get(kind, "device, as sold")


def _terms(report: EstimateReport) -> str:
    foot = report.footprint
    parts = (
        ("KV", foot.kv_cache_bytes),
        ("activations", foot.activation_bytes),
        ("graphs", foot.graph_bytes),
        ("context", foot.context_bytes),
    )
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)


def _frontier(report: EstimateReport) -> RenderableType:
    named = {report.operating_batch: "operating point", report.knee_batch: "knee"}
    return table_of(
        [p for p in report.points if p.batch & (p.batch - 1) == 0 or p.batch in named],
        Column(">batch", lambda p: str(p.batch)),
        Column(">tok/s", lambda p: rate(p.output_tokens_per_s)),
        Column(">req/s", lambda p: rate(p.req_per_s)),
        Column(">TTFT p95", lambda p: duration(p.ttft_p95_seconds)),
        Column(">TPOT p95", lambda p: duration(p.tpot_p95_seconds)),
        Column(">footprint", lambda p: format_bytes(p.footprint_bytes)),
        Column(">SMs", lambda p: "-" if p.sm_activity is None else f"{p.sm_activity:.0%}"),
        Column(">J/token", lambda p: rate(p.joules_per_output_token)),
        Column("", lambda p: named.get(p.batch, "")),
        bold=lambda p: p.batch == report.operating_batch,
    )


def _replicas(report: EstimateReport) -> Iterator[RenderableType]:
    best = best_replication(report.replications)
    if best is None or len(report.replications) < 2:
        return
    yield table_of(
        [r for r in report.replications if r.replicas <= max(4, best.replicas + 1)],
        Column(">replicas", lambda r: str(r.replicas)),
        Column("sharing", lambda r: r.mode.value),
        Column(">batch", lambda r: str(r.batch)),
        Column(">req/s", lambda r: rate(r.req_per_s)),
        Column(">TTFT p95", lambda r: duration(r.ttft_p95_seconds)),
        Column(">TPOT p95", lambda r: duration(r.tpot_p95_seconds)),
        Column("", lambda r: "most" if r == best else ""),
        bold=lambda r: r == best,
    )


def _meaning(report: EstimateReport, slo: Slo | None) -> Iterator[str]:
    yield (
        f"largest batch: {report.max_batch} by the paper's memory model, "
        f"{report.max_batch_safe} with the whole footprint"
    )
    if not report.points:
        yield (
            f"not even one request fits: it needs {format_bytes(report.footprint.peak_bytes)}, "
            f"the budget is {format_bytes(report.budget_bytes)}"
        )
    elif report.operating_batch is None:
        assert slo is not None
        yield "no batch holds the SLO"
    elif report.knee_batch is None:
        ended = report.limited_by.value if report.limited_by else "cap"
        yield f"no knee: throughput still grew at the largest batch (ended by {ended})"
    if report.operating_batch is not None:
        fit = report.replicas_that_fit
        yield (
            f"by memory, {'1 replica fits' if fit == 1 else f'{fit} replicas fit'} of batch "
            f"{report.operating_batch}; one gives {rate(report.throughput_req_per_s)} requests/s"
        )
    yield from report.notes


def comparison_table(spec: ModelSpec, options: Sequence[DeviceOption]) -> RenderableType:
    """One row per device: the best use of it."""
    heading = f"{spec.name}, {spec.workload.key}{_bounds(spec.slo)}: estimates"
    table = table_of(
        options,
        Column("one device", _named, whole=True),
        Column(">replicas", lambda o: "-" if o.reason else f"{o.replicas} {o.mode}"),
        Column(">batch", lambda o: "-" if o.reason else str(o.batch)),
        Column(">req/s", lambda o: o.reason or rate(o.req_per_s)),
        Column(">TTFT p95", lambda o: "" if o.reason else duration(o.ttft_p95_seconds)),
        Column(">TPOT p95", lambda o: "" if o.reason else duration(o.tpot_p95_seconds)),
        Column(">match", lambda o: "" if o.reason else f"{o.devices_to_match or 0:.1f}"),
    )
    table.padding = (0, 0, 0, 1)
    return Group(Text(heading, style="bold"), table, Text(MATCH))


def _named(option: DeviceOption) -> str:
    mig = option.partition.removeprefix("mig-")
    return option.hardware if mig == option.partition else f"{option.hardware}:{mig}"


def _bounds(slo: Slo | None) -> str:
    """The bounds that were given; a bound of a day or more stands for none."""
    if slo is None:
        return ""
    given = [
        f"{name} {seconds:g} s"
        for name, seconds in (("TTFT", slo.ttft_seconds), ("TPOT", slo.tpot_seconds))
        if seconds < 86400
    ]
    return f" within {' and '.join(given)}"
