"""Implements `partitiond tools simulate fleet`: runs a fleet under a trace or made-up traffic."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from partitiond.cli.columns import Column, table_of
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
from partitiond.simulated.fleet.report import FleetReport
from partitiond.simulated.fleet.tally import LatencyCounts


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
    rows = report.models if len(report.models) == 1 else (*report.models, report.all)
    table = table_of(
        rows,
        Column("model", lambda one: one.model),
        Column(">requests", lambda one: f"{one.served.arrivals:,}", whole=True),
        Column(">good", lambda one: _share(one.served.attainment), whole=True),
        Column(">refused", lambda one: f"{sum(one.served.refused.values()):,}", whole=True),
        Column(">good/s", lambda one: f"{one.served.goodput_req_per_s:.2f}", whole=True),
        Column(">TTFT", lambda one: _ms(one.served.ttft), whole=True),
        Column(">TPOT", lambda one: _ms(one.served.tpot), whole=True),
        Column(">GPU h", lambda one: f"{one.used.gpu_hours:.2f}", whole=True),
        Column(">kWh", lambda one: _kwh(one.used.kwh), whole=True),
    )
    simulated = (
        f"{report.seconds:,.0f} s simulated on {report.devices_used} of {report.devices} devices; "
        f"TTFT and TPOT: ms at p50/p95"
    )
    speed = (
        f"{report.events:,} events in {report.cpu_seconds:.1f} s of CPU time: "
        f"{report.events_per_s:,.0f} events/s"
    )
    return Group(table, "", simulated, speed)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _kwh(kwh: float | None) -> str:
    return "-" if kwh is None else f"{kwh:.3f}"


def _ms(latency: LatencyCounts) -> str:
    """Milliseconds at p50 and p95."""
    both = (latency.p50, latency.p95)
    return "/".join("-" if s is None else f"{1000 * s:,.0f}" for s in both)
