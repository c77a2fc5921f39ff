"""Summarises a run as numbers (for JSON) and as a table (for people)."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from loadgen.loops.closed import ClosedLoopResult
from loadgen.loops.instrument import MAX_LATE_SECONDS, saturation
from loadgen.loops.opened import OpenLoopResult
from loadgen.results.intervals import Interval
from loadgen.results.records import Outcome, Record
from loadgen.results.runs import CLOSED, Run, mismatches, run_of_closed, run_of_open, short_outputs
from loadgen.results.statistics import LatencySummary, Samples, Slo, attainment, is_good, summarise

LATENCIES = ("ttft", "tpot", "itl", "e2el")


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Summary of one run. Latencies are in seconds; None if nothing was measured.

    Attributes:
        half_width: 95 % half-width of the throughput, in tokens/s; None if it is unknown.
        refused: number of answers 429 and 503, apart from errors.
        mismatches: requests whose chunks and final usage disagree on the output length.
        instrument_cpu: share of one core the load generator used.
        lag_seconds_p99: how late requests were sent (open loop).
        errors_seen: up to five different error messages.
        stream: the stream that is summarised; empty for all together.
        prompt_tokens_per_s: rate over the requests whose first token came inside the window.
        short_outputs: requests that ended with fewer output tokens than were asked for.
        stall_seconds_p99: how late the instrument's event loop woke.
        saturated: reasons why the figures are unreliable; empty if they are reliable.
        slo: the bounds that attainment and goodput are computed with.
        streams: one report for each stream.
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
    stream: str = ""
    prompt_tokens_per_s: float = 0.0
    short_outputs: int = 0
    stall_seconds_p99: float = 0.0
    saturated: tuple[str, ...] = ()
    slo: Slo | None = None
    streams: tuple["Report", ...] = ()

    def to_jsonable(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def report_of(run: Run, max_late_seconds: float = MAX_LATE_SECONDS) -> Report:
    """Summary of a run, and of each of its streams."""
    saturated = saturation(run.instrument, max_late_seconds)
    streams = tuple(_report(run, name, saturated) for name in run.streams)
    return dataclasses.replace(_report(run, "", saturated), streams=streams)


def report_closed(result: ClosedLoopResult, slo: Slo | None = None) -> Report:
    """Summary of a closed-loop window."""
    return report_of(run_of_closed(result, {"": slo} if slo else {}))


def report_open(result: OpenLoopResult, slo: Slo | None = None) -> Report:
    """Summary of an open-loop run, with attainment and goodput if there is an SLO."""
    return report_of(run_of_open(result, {"": slo} if slo else {}))


def _report(run: Run, stream: str, saturated: tuple[str, ...]) -> Report:
    records = run.of(stream)
    counted = [record for record in records if run.counts(record)]
    samples = (
        Samples.of_window(records, run.opened, run.closed)
        if run.loop == CLOSED
        else Samples.of_requests(counted)
    )
    ends = {outcome: sum(r.outcome is outcome for r in counted) for outcome in Outcome}
    measured = run.throughput(records)
    good, share = _goodness(run, counted, stream)
    return Report(
        mode=f"{run.loop} loop, {run.load}",
        window_seconds=run.window_seconds,
        output_tokens_per_s=measured.output_tokens_per_s,
        half_width=_finite(measured.half_width),
        completed_req_per_s=ends[Outcome.OK] / run.window_seconds,
        completed=ends[Outcome.OK],
        refused=ends[Outcome.REFUSED],
        errors=ends[Outcome.ERROR],
        timeouts=ends[Outcome.TIMEOUT],
        cancelled=0 if run.loop == CLOSED else ends[Outcome.CANCELLED],
        mismatches=mismatches(records),
        ttft=summarise(samples.ttft),
        tpot=summarise(samples.tpot),
        itl=summarise(samples.itl),
        e2el=summarise(samples.e2el),
        instrument_cpu=run.instrument.cpu_share,
        wide=run.wide,
        lag_seconds_p99=None if run.loop == CLOSED else run.instrument.lag_seconds_p99,
        attainment=share,
        goodput_req_per_s=good,
        errors_seen=_errors_seen(records),
        stream=stream,
        prompt_tokens_per_s=run.prompt_tokens_per_s(records),
        short_outputs=short_outputs(counted),
        stall_seconds_p99=run.instrument.stall_seconds_p99,
        saturated=saturated,
        slo=run.slo(stream),
    )


def _goodness(
    run: Run, counted: Sequence[Record], stream: str
) -> tuple[float | None, float | None]:
    """Good requests per second and their share of all arrivals, each by its stream's SLO."""
    with_slo = [(r, run.slo(r.stream)) for r in counted]
    judged = [(record, slo) for record, slo in with_slo if slo is not None]
    if not run.slos or (stream and run.slo(stream) is None):
        return None, None
    good = sum(is_good(record, slo) for record, slo in judged) / run.window_seconds
    shares = [(attainment([record], slo)) for record, slo in judged]
    told = [share for share in shares if share is not None]
    return good, math.fsum(told) / len(told) if told else None


def _finite(value: float) -> float | None:
    """The value, or None for infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _errors_seen(records: Iterable[Record]) -> tuple[str, ...]:
    seen = dict.fromkeys(r.error for r in records if r.error and r.outcome is not Outcome.CANCELLED)
    return tuple(seen)[:5]


def render(report: Report) -> str:
    """The report as aligned text, each stream after the total."""
    lines = [_title(report), *_figures(report)]
    for stream in report.streams:
        lines += ["", f"stream {stream.stream}", *_figures(stream)]
    lines += [_instrument_line(report), *(f"  SATURATED: {text}" for text in report.saturated)]
    lines.extend(f"  seen: {text}" for text in report.errors_seen)
    return "\n".join(lines)


def render_refusal(report: Report) -> str:
    """The text for a run whose figures are withheld."""
    lines = [_title(report), _counts_line(report), _instrument_line(report)]
    lines.extend(f"  SATURATED: {reason}" for reason in report.saturated)
    lines.append(
        "  No figures: they would be the load generator's own queue. Give it a core of its own "
        "(taskset), send less, or split the load over processes; --allow-saturated prints them."
    )
    lines.extend(f"  seen: {text}" for text in report.errors_seen)
    return "\n".join(lines)


def _title(report: Report) -> str:
    wide = " (wide: closed at its time limit)" if report.wide else ""
    return f"{report.mode}, window {report.window_seconds:.1f} s{wide}"


def _counts_line(report: Report) -> str:
    return (
        f"  completed {report.completed}, refused {report.refused}, errors {report.errors}, "
        f"timed out {report.timeouts}, cancelled {report.cancelled}"
    )


def _figures(report: Report) -> list[str]:
    width = "unknown" if report.half_width is None else f"{report.half_width:.1f}"
    lines = [
        f"  output tokens/s   {report.output_tokens_per_s:10.1f} ± {width}",
        f"  prompt tokens/s   {report.prompt_tokens_per_s:10.1f}",
        f"  requests/s        {report.completed_req_per_s:10.2f}",
        _counts_line(report),
    ]
    if report.goodput_req_per_s is not None:
        share = "-" if report.attainment is None else f"{report.attainment:.1%}"
        lines.append(f"  goodput           {report.goodput_req_per_s:10.2f} req/s, within {share}")
    columns = "".join(f"{name:>20}" for name in ("mean", "p50", "p95", "p99"))
    lines.append(f"  {'milliseconds':12}{columns}{'n':>8}")
    for name in LATENCIES:
        lines.extend(_latency_lines(name.upper(), getattr(report, name)))
    if report.mismatches:
        lines.append(f"  {report.mismatches} requests: chunks and final usage disagree on tokens")
    if report.short_outputs:
        lines.append(f"  {report.short_outputs} requests ended before the output asked for")
    return lines


def _latency_lines(name: str, summary: LatencySummary | None) -> list[str]:
    if summary is None:
        return [f"  {name:12}{'-':>20}"]
    values = (summary.mean, summary.p50, summary.p95, summary.p99)
    intervals = intervals_of(summary)
    lines = [f"  {name:12}" + "".join(f"{v * 1e3:20.2f}" for v in values) + f"{summary.count:8d}"]
    if any(intervals):
        lines.append(f"  {'  95 %':12}" + "".join(f"{_between(i):>20}" for i in intervals))
    return lines


def intervals_of(summary: LatencySummary) -> tuple[Interval | None, ...]:
    """Intervals of mean, p50, p95 and p99."""
    return (
        summary.mean_interval, summary.p50_interval, summary.p95_interval, summary.p99_interval,
    )  # fmt: skip


def _between(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0] * 1e3:.2f}..{interval[1] * 1e3:.2f}"


def _instrument_line(report: Report) -> str:
    lag = report.lag_seconds_p99
    late = "" if lag is None else f", sent late by {lag * 1e3:.1f} ms"
    stalled = f", woke late by {report.stall_seconds_p99 * 1e3:.1f} ms"
    return f"  instrument: {report.instrument_cpu:.0%} of one core{late}{stalled} at p99"
