"""Implements `partitiond tools simulate fleet`: runs a fleet under a trace or made-up traffic."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from partitiond.cli.options import (
    JsonOption,
    check_finite,
    check_time_limit,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import emit
from partitiond.core.errors import InputError
from partitiond.simulated.fleet.arrivals import ArrivalKind
from partitiond.simulated.fleet.report import FleetReport, ModelReport


@spread
def fleet(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="FLEET", help="A fleet file, as for plan --from.")
    ],
    *,
    trace: Path | None = option(
        "Replay this one (BurstGPT, Azure or Mooncake), dealt out by demand.", metavar="FILE"
    ),
    workload: str = option("Made up: poisson, gamma, burst or diurnal.", default="poisson"),
    factor: float = option("Of the demand; of a trace, how much faster.", default=1.0, min=0.0),
    seconds: float | None = option(
        "In which requests arrive; default 600, or all of a trace.", min=1.0
    ),
    plan: Path | None = option("A plan saved with --json, not a new one.", metavar="FILE"),
    time_limit: float | None = option("For the plan.", metavar="SECONDS"),
    seed: int = option("Of arrivals, lengths and draws.", default=0),
    as_json: JsonOption = False,
) -> None:
    """Simulate a fleet under load: goodput, latency, GPU hours, energy.

    Plans the file as `plan --from` does, and lets requests come to the plan in simulated time:
    admission and dispatch are decided by the code that decides them in production. Needs no daemon
    and no GPU.
    """
    from partitiond.cli.tools.fleet_simulation import Simulated, simulate

    check_time_limit(time_limit)
    check_finite(factor=factor, seconds=seconds)
    if factor == 0:
        raise InputError("--factor 0 leaves no requests.", hint="As 2 for twice the demand.")
    try:
        kind = ArrivalKind(workload)
    except ValueError as error:
        names = ", ".join(one.value for one in ArrivalKind)
        raise InputError(f"{workload!r} is no workload.", hint=f"Use {names}.") from error
    asked = Simulated(
        source=source,
        trace=trace,
        kind=kind,
        factor=factor,
        seconds=seconds,
        plan=plan,
        time_limit_seconds=time_limit,
        seed=seed,
    )
    report = simulate(asked, settings_of(ctx))
    emit(report, as_json=as_json, render=lambda: render_report(report))


def render_report(report: FleetReport) -> Group:
    """A table with a row per model and one for all, and what the simulation took."""
    table = Table("model", box=None, pad_edge=False)
    for name in (
        "requests", "good", "refused", "good/s", "TTFT", "TPOT", "GPU h", "kWh",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    rows = report.models if len(report.models) == 1 else (*report.models, report.all)
    for one in rows:
        table.add_row(one.model, *_cells(one))
    simulated = (
        f"{report.seconds:,.0f} s simulated on {report.devices_used} of {report.devices} devices; "
        f"TTFT and TPOT: ms at p50/p95"
    )
    speed = (
        f"{report.events:,} events in {report.cpu_seconds:.1f} s of CPU time: "
        f"{report.events_per_s:,.0f} events/s"
    )
    return Group(table, "", simulated, speed)


def _cells(one: ModelReport) -> list[str]:
    served, used = one.served, one.used
    attainment = served.attainment
    return [
        f"{served.arrivals:,}",
        "-" if attainment is None else f"{attainment:.1%}",
        f"{sum(served.refused.values()):,}",
        f"{served.goodput_req_per_s:.2f}",
        f"{_ms(served.ttft.p50)}/{_ms(served.ttft.p95)}",
        f"{_ms(served.tpot.p50)}/{_ms(served.tpot.p95)}",
        f"{used.gpu_hours:.2f}",
        "-" if used.kwh is None else f"{used.kwh:.3f}",
    ]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f}"
