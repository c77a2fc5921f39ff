"""Draws the report of a simulated fleet."""

from rich.console import Group
from rich.table import Table

from partitiond.simulated.fleet.report import FleetReport, ModelReport


def render_report(report: FleetReport) -> Group:
    """A table with a row per model and one for all, and what the simulation took."""
    table = Table("model", box=None, pad_edge=False)
    for name in (
        "requests", "good", "refused", "failed", "good/s", "TTFT", "TPOT", "GPU h", "kWh",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    rows = report.models if len(report.models) == 1 else (*report.models, report.all)
    for one in rows:
        table.add_row(one.model, *_cells(one))
    simulated = (
        f"{report.seconds:,.0f} s simulated on {report.devices_used} of {report.devices} devices; "
        f"TTFT and TPOT: ms at p50/p95"
    )
    changes = f"{report.engine_starts} engines started, {report.plans} plans applied on the way"
    speed = (
        f"{report.events:,} events in {report.cpu_seconds:.1f} s of CPU time: "
        f"{report.events_per_s:,.0f} events/s"
    )
    return Group(table, "", simulated, changes, speed)


def _cells(one: ModelReport) -> list[str]:
    served, used = one.served, one.used
    attainment = served.attainment
    return [
        f"{served.arrivals:,}",
        "-" if attainment is None else f"{attainment:.1%}",
        f"{sum(served.refused.values()):,}",
        f"{served.failed:,}",
        f"{served.goodput_req_per_s:.2f}",
        f"{_ms(served.ttft.p50)}/{_ms(served.ttft.p95)}",
        f"{_ms(served.tpot.p50)}/{_ms(served.tpot.p95)}",
        f"{used.gpu_hours:.2f}",
        "-" if used.kwh is None else f"{used.kwh:.3f}",
    ]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f}"
