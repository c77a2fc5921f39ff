"""Renders one or several runs as a self-contained HTML page."""

import datetime
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from loadgen.loops.instrument import MAX_LATE_SECONDS
from loadgen.results.curves import (
    distribution,
    histogram,
    histogram_range,
    in_flight_over_time,
    tokens_over_time,
)
from loadgen.results.intervals import Interval
from loadgen.results.records import Record
from loadgen.results.report import LATENCIES, Report, intervals_of, report_of
from loadgen.results.runs import CLOSED, Run
from loadgen.results.statistics import LatencySummary, Samples
from loadgen.results.svg import Point, Series, chart

_STYLE: Final = """
:root { --ink: #1c2430; --dim: #5b6675; --line: #d9dee5; --back: #ffffff; --bad: #b3261e; }
.s0{--c:#0072b2}.s1{--c:#d55e00}.s2{--c:#009e73}.s3{--c:#cc79a7}
.s4{--c:#7b5ea7}.s5{--c:#a6761d}.s6{--c:#56b4e9}.s7{--c:#666666}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --dim: #9aa6b5; --line: #343d49; --back: #14181e; --bad: #ff8a80; }
  .s0{--c:#56b4e9}.s1{--c:#ff9d5c}.s2{--c:#3fd0a4}.s3{--c:#e8a4c8}
  .s4{--c:#b79ce0}.s5{--c:#d9b25c}.s6{--c:#8fd0f5}.s7{--c:#aaaaaa}
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
td small { color: var(--dim); display: block; }
.scroll { overflow-x: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 1rem; }
.bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; } svg .title { font-weight: 600; font-size: 14px; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .tick { fill: var(--dim); }
svg .line { stroke: var(--c); stroke-width: 1.8; } svg .area { fill: var(--c); opacity: .14; }
svg .rule { stroke: var(--line); stroke-width: 1; }
pre { white-space: pre-wrap; color: var(--dim); font-size: 13px; }
"""


def page(
    runs: Sequence[tuple[str, Run]],
    title: str = "Load generator report",
    max_late_seconds: float = MAX_LATE_SECONDS,
) -> str:
    """The page of labelled runs, side by side.

    A run that saturated the instrument is shown, but marked: the exit code has already told the
    caller.
    """
    reports = [(label, report_of(run, max_late_seconds)) for label, run in runs]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *(_warning(label, report) for label, report in reports),
            "<h2>Figures</h2>",
            _table(_columns(reports)),
            "<h2>Over time</h2>",
            f'<div class="grid">{"".join(_time_charts(runs))}</div>',
            "<h2>Latency</h2>",
            f'<div class="grid">{"".join(_latency_charts(runs))}</div>',
            "<h2>How it was run</h2>",
            *(_settings(label, run) for label, run in runs),
            "</body></html>\n",
        ]
    )


def _warning(label: str, report: Report) -> str:
    return "".join(
        f'<p class="bad">{escape(label)}: saturated, not to be trusted: {escape(reason)}</p>'
        for reason in report.saturated
    )


def _columns(reports: Sequence[tuple[str, Report]]) -> list[tuple[str, Report]]:
    columns = []
    for label, report in reports:
        columns.append((label, report))
        columns += [(f"{label}: {part.stream}", part) for part in report.streams]
    return columns


def _table(columns: Sequence[tuple[str, Report]]) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label, _ in columns)
    rows = [f"<tr><th></th>{head}</tr>"]
    for name, cell in _ROWS:
        cells = "".join(f"<td>{cell(report)}</td>" for _, report in columns)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    for latency in LATENCIES:
        for at, figure in enumerate(("mean", "p50", "p95", "p99")):
            cells = "".join(f"<td>{_latency(getattr(r, latency), at)}</td>" for _, r in columns)
            rows.append(f"<tr><td>{latency.upper()} {figure}, ms</td>{cells}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _with_interval(text: str, interval: str) -> str:
    return f"{text}<small>{interval}</small>" if interval else text


def _throughput(report: Report) -> str:
    width = "" if report.half_width is None else f"± {_number(report.half_width, 1)}"
    return _with_interval(_number(report.output_tokens_per_s, 1), width)


def _goodput(report: Report) -> str:
    if report.goodput_req_per_s is None:
        return "-"
    share = "" if report.attainment is None else f"{report.attainment:.1%} of arrivals"
    return _with_interval(_number(report.goodput_req_per_s), share)


def _latency(summary: LatencySummary | None, at: int) -> str:
    if summary is None:
        return "-"
    value = (summary.mean, summary.p50, summary.p95, summary.p99)[at]
    interval: Interval | None = intervals_of(summary)[at]
    between = "" if interval is None else " to ".join(_number(bound * 1e3) for bound in interval)
    return _with_interval(_number(value * 1e3), between)


_ROWS: Final[tuple[tuple[str, Callable[[Report], str]], ...]] = (
    ("Load", lambda r: escape(r.mode)),
    ("Window, s", lambda r: _number(r.window_seconds, 1)),
    ("Output tokens/s", _throughput),
    ("Prompt tokens/s", lambda r: _number(r.prompt_tokens_per_s, 1)),
    ("Requests/s", lambda r: _number(r.completed_req_per_s)),
    ("Goodput, requests/s", _goodput),
    ("Completed", lambda r: str(r.completed)),
    ("Refused", lambda r: str(r.refused)),
    ("Errors and time-outs", lambda r: str(r.errors + r.timeouts)),
    ("Ended before the output asked for", lambda r: str(r.short_outputs)),
    ("Instrument, share of a core", lambda r: f"{r.instrument_cpu:.0%}"),
)


def _series(runs: Sequence[tuple[str, Run]]) -> list[tuple[str, Run, str]]:
    """(label, run, stream) of each line: the runs, or the parts of a single run."""
    if len(runs) == 1 and runs[0][1].streams:
        run = runs[0][1]
        return [("all", run, ""), *((stream, run, stream) for stream in run.streams)]
    return [(label if len(runs) > 1 else "", run, "") for label, run in runs]


def _time_charts(runs: Sequence[tuple[str, Run]]) -> list[str]:
    time = "seconds from the window's opening"
    return [
        chart("Output tokens/s", time, "tokens/s", _over_time(runs, tokens_over_time, step=False)),
        chart("In flight", time, "requests", _over_time(runs, in_flight_over_time, step=True)),
    ]


def _over_time(
    runs: Sequence[tuple[str, Run]],
    points: Callable[[Sequence[Record], float], list[Point]],
    *,
    step: bool,
) -> list[Series]:
    return [
        Series(label, points(run.of(stream), run.opened), step=step, colour=i)
        for i, (label, run, stream) in enumerate(_series(runs))
    ]


def _latency_charts(runs: Sequence[tuple[str, Run]]) -> list[str]:
    lines = [(label, _samples(run, stream)) for label, run, stream in _series(runs)]
    charts = []
    for name in LATENCIES:
        milliseconds = [
            (label, [value * 1e3 for value in getattr(samples, name)]) for label, samples in lines
        ]
        cdf = [
            Series(label, distribution(v), colour=i) for i, (label, v) in enumerate(milliseconds)
        ]
        title = f"{name.upper()}, distribution"
        charts.append(chart(title, "milliseconds", "share", cdf, log_x=True, legend_left=True))
        borders = histogram_range(values for _, values in milliseconds)
        if name in {"ttft", "itl"} and borders is not None:
            bars = [
                Series(label, histogram(v, *borders), step=True, fill=True, colour=i)
                for i, (label, v) in enumerate(milliseconds)
            ]
            charts.append(chart(f"{name.upper()}, histogram", "milliseconds", "share", bars))
    return charts


def _samples(run: Run, stream: str) -> Samples:
    records = run.of(stream)
    if run.loop == CLOSED:
        return Samples.of_window(records, run.opened, run.closed)
    return Samples.of_requests(record for record in records if run.counts(record))


def _settings(label: str, run: Run) -> str:
    started = datetime.datetime.fromtimestamp(run.started_unix, datetime.UTC)
    when = f"started {started:%Y-%m-%d %H:%M:%S} UTC" if run.started_unix else ""
    settings = json.dumps(run.settings, indent=2, sort_keys=True, default=str)
    return f"<h3>{escape(label)}</h3><p>{when}</p><pre>{escape(settings)}</pre>"
