"""Renders several reports as one table of text."""

from collections.abc import Callable, Sequence

from loadgen.results.report import LATENCIES, Report, intervals_of
from loadgen.results.statistics import LatencySummary

_WIDTH = 26


def side_by_side(reports: Sequence[tuple[str, Report]]) -> str:
    """A column for each run; for two runs also the ratio of the second to the first."""
    pair = len(reports) == 2
    labels = [label[: _WIDTH - 2] for label, _ in reports] + (["ratio"] if pair else [])
    lines = [f"{'':22}" + "".join(f"{label:>{_WIDTH}}" for label in labels)]
    for name, value, text in _rows():
        cells = [text(report) for _, report in reports]
        if pair:
            cells.append(_ratio(*(value(report) for _, report in reports)))
        lines.append(f"{name:22}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells))
    for label, report in reports:
        lines.extend(f"SATURATED, {label}: {reason}" for reason in report.saturated)
    return "\n".join(lines)


Row = tuple[str, Callable[[Report], float | None], Callable[[Report], str]]


def _rows() -> list[Row]:
    rows: list[Row] = [
        ("output tokens/s", lambda r: r.output_tokens_per_s, _throughput),
        _plain("prompt tokens/s", lambda r: r.prompt_tokens_per_s),
        _plain("requests/s", lambda r: r.completed_req_per_s),
        _plain("goodput, req/s", lambda r: r.goodput_req_per_s),
        _plain("attainment", lambda r: r.attainment),
        _plain("completed", lambda r: float(r.completed)),
        _plain("refused", lambda r: float(r.refused)),
        _plain("errors, time-outs", lambda r: float(r.errors + r.timeouts)),
        _plain("instrument, cores", lambda r: r.instrument_cpu),
    ]
    for latency in LATENCIES:
        rows += [_latency(latency, at) for at in range(4)]
    return rows


def _plain(name: str, value: Callable[[Report], float | None]) -> Row:
    def text(report: Report) -> str:
        number = value(report)
        return "-" if number is None else f"{number:,.2f}"

    return name, value, text


def _throughput(report: Report) -> str:
    width = "" if report.half_width is None else f" ± {report.half_width:,.1f}"
    return f"{report.output_tokens_per_s:,.1f}{width}"


def _latency(latency: str, at: int) -> Row:
    figure = ("mean", "p50", "p95", "p99")[at]

    def value(report: Report) -> float | None:
        summary: LatencySummary | None = getattr(report, latency)
        if summary is None:
            return None
        return (summary.mean, summary.p50, summary.p95, summary.p99)[at]

    def text(report: Report) -> str:
        number = value(report)
        if number is None:
            return "-"
        interval = intervals_of(getattr(report, latency))[at]
        between = (
            "" if interval is None else " [{:.1f}, {:.1f}]".format(*(x * 1e3 for x in interval))
        )
        return f"{number * 1e3:.1f}{between}"

    return f"{latency.upper()} {figure}, ms", value, text


def _ratio(first: float | None, second: float | None) -> str:
    return "-" if not first or second is None else f"{second / first:.3f}"
