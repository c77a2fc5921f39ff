"""Draws what replicas do beside what was predicted."""

import functools
from collections.abc import Sequence

from rich.console import Group, RenderableType

from partitiond.cli.columns import Column, table_of, time_text
from partitiond.core.drift.detection import Figure
from partitiond.core.views.drift import DriftReport, ReplicaDrift

ALWAYS_SHOWN = (Figure.PACE, Figure.TPOT, Figure.FIRST)


def report_view(report: DriftReport) -> RenderableType:
    """Return the replicas, then the corrections and the profiles to be measured again."""
    if not report.replicas and not report.corrections:
        return "No replica serves."
    full = report.window_requests
    table = table_of(
        report.replicas,
        Column("engine", lambda r: r.engine),
        Column("device", lambda r: r.device_id),
        Column("verdict", lambda r: r.verdict, whole=True),
        Column(">batch", lambda r: f"{r.last.batch:.1f}" if r.last is not None else "-"),
        *(
            Column(f">{figure.value}", functools.partial(_ratio, figure), whole=True)
            for figure in ALWAYS_SHOWN
        ),
        Column(">window", lambda r: f"{min(r.gathered, full)}/{full}", whole=True),
    )
    return Group(table, *_notes(report))


def _notes(report: DriftReport) -> Sequence[str]:
    lines = [
        "Figures are measured by predicted at the load that was seen; above 1 is slower. A window "
        f"is full at {report.window_requests} requests."
    ]
    lines += [f"{r.engine}: {r.words}." for r in report.replicas if r.words]
    lines += [
        f"{c.model}: since {time_text(c.since)} plans take {c.factor:.2f} of {c.profile_id}'s "
        f"rates; `partitiond models show --drift --lift {c.profile_id}` takes that off."
        for c in report.corrections
    ]
    lines += [
        f"{m.profile_id} is to be measured again{f' ({m.job_id})' if m.job_id else ''}: {m.words}."
        for m in report.remeasures
    ]
    return lines


def _ratio(figure: Figure, replica: ReplicaDrift) -> str:
    found = replica.last.finding(figure) if replica.last is not None else None
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.ratio:.2f}"
    return f"{found.ratio:.2f} ±{(found.high - found.low) / 2:.2f}"
