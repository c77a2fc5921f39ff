"""Draws estimates and comparisons as tables of at most 80 columns."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import new_table
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
    table = new_table("memory", ">", "")
    rows = (
        (_owner(report), report.memory_bytes, ""),
        ("budget", report.budget_bytes, f"{report.memory_fraction:.0%}, headroom left free"),
        ("weights", report.weights_bytes, f"{report.parameters / 1e6:,.0f} M parameters"),
        ("KV cache per token", report.kv_bytes_per_token, ""),
        (f"footprint at batch {batch}", foot.peak_bytes, _terms(report)),
    )
    for name, size, note in rows:
        table.add_row(name, format_bytes(size), note)
    return table


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
    table = new_table(
        ">batch", ">tok/s", ">req/s", ">TTFT p95", ">TPOT p95", ">footprint", ">SMs", ">J/token", ""
    )
    for point in report.points:
        power_of_two = point.batch & (point.batch - 1) == 0
        if not power_of_two and point.batch not in {report.knee_batch, report.operating_batch}:
            continue
        chosen = point.batch == report.operating_batch
        words = ["knee"] if point.batch == report.knee_batch else []
        if chosen and not words:
            words.append("operating point")
        table.add_row(
            str(point.batch),
            rate(point.output_tokens_per_s),
            rate(point.req_per_s),
            duration(point.ttft_p95_seconds),
            duration(point.tpot_p95_seconds),
            format_bytes(point.footprint_bytes),
            "-" if point.sm_activity is None else f"{point.sm_activity:.0%}",
            rate(point.joules_per_output_token),
            " ".join(words),
            style="bold" if chosen else "",
        )
    return table


def _replicas(report: EstimateReport) -> Iterator[RenderableType]:
    best = best_replication(report.replications)
    if best is None or len(report.replications) < 2:
        return
    table = new_table(">replicas", "sharing", ">batch", ">req/s", ">TTFT p95", ">TPOT p95", "")
    shown = [r for r in report.replications if r.replicas <= max(4, best.replicas + 1)]
    for option in shown:
        table.add_row(
            str(option.replicas),
            option.mode.value,
            str(option.batch),
            rate(option.req_per_s),
            duration(option.ttft_p95_seconds),
            duration(option.tpot_p95_seconds),
            "most" if option == best else "",
            style="bold" if option == best else "",
        )
    yield table


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
    table = new_table(
        "one device", ">replicas", ">batch", ">req/s", ">TTFT p95", ">TPOT p95", ">match",
        whole={"one device"},
    )  # fmt: skip
    table.padding = (0, 0, 0, 1)
    for option in options:
        name = option.hardware
        if option.partition.startswith("mig-"):
            name += ":" + option.partition.removeprefix("mig-")
        if option.reason:
            table.add_row(name, "-", "-", option.reason)
            continue
        row = [
            name,
            f"{option.replicas} {option.mode}",
            str(option.batch),
            rate(option.req_per_s),
            duration(option.ttft_p95_seconds),
            duration(option.tpot_p95_seconds),
            f"{option.devices_to_match or 0:.1f}",
        ]
        table.add_row(*row)
    return Group(Text(heading, style="bold"), table, Text(MATCH))


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
