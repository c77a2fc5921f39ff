"""A run as numbers (for JSON) and as a table (for people)."""

import dataclasses
import math
from typing import Any

from loadgen.closed import ClosedLoopResult
from loadgen.opened import OpenLoopResult
from loadgen.records import Outcome
from loadgen.statistics import LatencySummary, Slo, summarise


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Summary of one run. Latencies in seconds; None where nothing was measured.

    Attributes:
        half_width: 95 % half-width of the throughput, in tokens/s; None where it cannot be told.
        refused: 429 and 503, apart from errors.
        mismatches: requests whose chunks and final usage disagree on the output length.
        instrument_cpu: share of one core the load generator used.
        lag_seconds_p99: how late requests were sent (open loop).
        errors_seen: up to five different error messages.
    """

    mode: str
    window_seconds: float
    output_tokens_per_s: float
    half_width: float | None
    completed_req_per_s: float
    completed: int
    refused: int
    errors: int
    timeouts: int
    cancelled: int
    mismatches: int
    ttft: LatencySummary | None
    tpot: LatencySummary | None
    itl: LatencySummary | None
    e2el: LatencySummary | None
    instrument_cpu: float
    wide: bool = False
    lag_seconds_p99: float | None = None
    attainment: float | None = None
    goodput_req_per_s: float | None = None
    errors_seen: tuple[str, ...] = ()

    def to_jsonable(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _errors_seen(result: ClosedLoopResult | OpenLoopResult) -> tuple[str, ...]:
    seen = dict.fromkeys(
        r.error for r in result.records if r.error and r.outcome is not Outcome.CANCELLED
    )
    return tuple(seen)[:5]


def report_closed(result: ClosedLoopResult) -> Report:
    """Summary of a closed-loop window."""
    completed = result.ended(Outcome.OK)
    return Report(
        mode=f"closed loop, {result.concurrency} in flight",
        window_seconds=result.window_seconds,
        output_tokens_per_s=result.throughput.output_tokens_per_s,
        half_width=_finite(result.throughput.half_width),
        completed_req_per_s=completed / result.window_seconds,
        completed=completed,
        refused=result.ended(Outcome.REFUSED),
        errors=result.ended(Outcome.ERROR),
        timeouts=result.ended(Outcome.TIMEOUT),
        cancelled=0,
        mismatches=result.mismatches,
        instrument_cpu=result.cpu_share,
        wide=result.wide,
        errors_seen=_errors_seen(result),
        ttft=summarise(result.samples.ttft),
        tpot=summarise(result.samples.tpot),
        itl=summarise(result.samples.itl),
        e2el=summarise(result.samples.e2el),
    )


def report_open(result: OpenLoopResult, slo: Slo | None = None) -> Report:
    """Summary of an open-loop run, with attainment and goodput where there is an SLO."""
    completed = result.count(Outcome.OK)
    return Report(
        mode=f"open loop, {len(result.arrivals) / result.window_seconds:.3g} req/s",
        window_seconds=result.window_seconds,
        output_tokens_per_s=result.throughput.output_tokens_per_s,
        half_width=_finite(result.throughput.half_width),
        completed_req_per_s=completed / result.window_seconds,
        completed=completed,
        refused=result.count(Outcome.REFUSED),
        errors=result.count(Outcome.ERROR),
        timeouts=result.count(Outcome.TIMEOUT),
        cancelled=result.count(Outcome.CANCELLED),
        mismatches=result.mismatches,
        instrument_cpu=result.cpu_share,
        lag_seconds_p99=result.lag_seconds_p99,
        attainment=result.attainment(slo) if slo else None,
        goodput_req_per_s=result.goodput_req_per_s(slo) if slo else None,
        errors_seen=_errors_seen(result),
        ttft=summarise(result.samples.ttft),
        tpot=summarise(result.samples.tpot),
        itl=summarise(result.samples.itl),
        e2el=summarise(result.samples.e2el),
    )


def render(report: Report) -> str:
    """The report as aligned text."""
    wide = " (wide: closed at its time limit)" if report.wide else ""
    width = "unknown" if report.half_width is None else f"{report.half_width:.1f}"
    lines = [
        f"{report.mode}, window {report.window_seconds:.1f} s{wide}",
        f"  output tokens/s   {report.output_tokens_per_s:10.1f} ± {width}",
        f"  requests/s        {report.completed_req_per_s:10.2f}",
        f"  completed {report.completed}, refused {report.refused}, errors {report.errors}, "
        f"timed out {report.timeouts}, cancelled {report.cancelled}",
    ]
    if report.goodput_req_per_s is not None:
        share = "-" if report.attainment is None else f"{report.attainment:.1%}"
        lines.append(f"  goodput           {report.goodput_req_per_s:10.2f} req/s, within {share}")
    lines.append(f"  {'milliseconds':14}{'mean':>10}{'p50':>10}{'p95':>10}{'p99':>10}{'n':>8}")
    for name in ("ttft", "tpot", "itl", "e2el"):
        lines.append(_latency_line(name.upper(), getattr(report, name)))
    lines.append(_instrument_line(report))
    if report.mismatches:
        lines.append(f"  {report.mismatches} requests: chunks and final usage disagree on tokens")
    lines.extend(f"  seen: {text}" for text in report.errors_seen)
    return "\n".join(lines)


def _latency_line(name: str, summary: LatencySummary | None) -> str:
    if summary is None:
        return f"  {name:14}{'-':>10}"
    values = (summary.mean, summary.p50, summary.p95, summary.p99)
    return f"  {name:14}" + "".join(f"{v * 1e3:10.1f}" for v in values) + f"{summary.count:8d}"


def _instrument_line(report: Report) -> str:
    lag = report.lag_seconds_p99
    late = "" if lag is None else f", sent late by {lag * 1e3:.1f} ms at p99"
    return f"  instrument: {report.instrument_cpu:.0%} of one core{late}"
