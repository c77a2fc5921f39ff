"""Draws the results of replication and pair measurements as tables."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import new_table
from partitiond.cli.tables import duration, rate
from partitiond.cli.tools.local_replicate import PairReport, ReplicationReport
from partitiond.core.performance.interference import DERATE_FROM, pair_errors
from partitiond.profiler.pairs.replication import ReplicationDifference


def report_of(report: ReplicationReport | PairReport) -> RenderableType:
    """Tables of the results, and their meaning."""
    if isinstance(report, PairReport):
        return _pair(report)
    return _replication(report)


def _replication(report: ReplicationReport) -> RenderableType:
    found = report.replication
    table = new_table("replicas", ">batch", ">tok/s in sum", ">+-", ">TPOT p95", ">TTFT p95", ">n")
    for name, run in found.runs:
        table.add_row(
            name,
            str(run.batch_each),
            rate(run.total_output_tokens_per_s),
            _width(run.half_width),
            duration(run.tpot_p95_seconds),
            duration(run.ttft_p95_seconds),
            str(run.windows),
        )
    lines = [_difference(d) for d in found.differences]
    for cores, sharing in found.sharing:
        where = f"replicas on {cores} core{'s' if cores > 1 else ''} each"
        lines.append(
            f"Sharing ({sharing.mode}, {where}): u = {sharing.busy:.3f}, "
            f"kappa = {sharing.kappa:.3f}."
        )
    if found.idle_cores is not None:
        lines.append(f"Engines without load took up to {found.idle_cores:.3f} of a core.")
    lines.append(_instrument(max(run.instrument_cpu for _, run in found.runs)))
    lines += [f"Note: {note}." for note in found.notes]
    lines.append(_kept(report.profiles))
    heading = Text(f"{report.model}: replicas side by side", style="bold")
    return Group(heading, table, Text("\n".join(lines)))


def _difference(d: ReplicationDifference) -> str:
    verdict = "" if d.shown else "; the interval holds 0, so no difference is shown"
    if not math.isfinite(d.half_width):
        verdict = "; one window tells no interval"
    return (
        f"{d.name} against {d.baseline}: {d.ratio:.3f} times the tokens/s, "
        f"difference {d.difference:+.1f} +- {_width(d.half_width)} tokens/s{verdict}."
    )


def _width(half_width: float) -> str:
    return f"{half_width:.1f}" if math.isfinite(half_width) else "unknown"


def _pair(report: PairReport) -> RenderableType:
    pair = report.pair
    table = new_table(
        "model", ">alone", ">predicted", ">measured", ">error", ">TPOT predicted", ">measured"
    )
    for i, model in enumerate(pair.models):
        predicted = pair.predicted_output_tokens_per_s[i]
        measured = pair.measured_output_tokens_per_s[i]
        table.add_row(
            model,
            rate(pair.alone_output_tokens_per_s[i]),
            rate(predicted),
            f"{rate(measured)} +- {_width(pair.half_widths[i])}",
            f"{measured / predicted - 1:+.1%}" if predicted > 0 else "-",
            duration(pair.predicted_tpot_p95_seconds[i]),
            duration(pair.measured_tpot_p95_seconds[i]),
        )
    cores, batches = (
        " and ".join(map(str, pair_of)) for pair_of in (pair.cores_each, pair.batches)
    )
    lines = [f"Cores {cores}, requests in flight {batches}, {pair.windows} windows each."]
    lines.append(_instrument(pair.instrument_cpu))
    errors = pair_errors([pair])
    if errors is not None:
        lines.append(
            f"Errors of the predictions: median {errors.median:.1%}, worst {errors.worst:.1%}."
        )
        if errors.p90 > DERATE_FROM:
            lines.append(f"Plans derate these models by {errors.shortfall_p90:.1%} from now on.")
    lines.append(_kept(report.profiles))
    heading = Text(f"{' and '.join(pair.models)} side by side, tokens/s", style="bold")
    return Group(heading, table, Text("\n".join(lines)))


def _instrument(share: float) -> str:
    return f"The load generator used up to {share:.0%} of one core."


def _kept(profiles: tuple[str, ...]) -> str:
    return f"Kept with {', '.join(profiles)}." if profiles else "No profile carries this."
