"""Implements `partitiond tools simulate fleet`: runs a fleet under a trace or made-up traffic."""

from pathlib import Path
from typing import Annotated

import typer

from partitiond.cli.options import JsonOption, check_finite, check_time_limit, settings_of
from partitiond.cli.output import emit
from partitiond.cli.tools.fleet_view import render_report
from partitiond.core.errors import InputError
from partitiond.simulated.fleet.arrivals import ArrivalKind


def fleet(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="FLEET", help="A fleet file, as for plan --from.")
    ],
    *,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Replay this one (BurstGPT, Azure or Mooncake), dealt out by demand.",
        ),
    ] = None,
    workload: Annotated[
        str, typer.Option("--workload", help="Made up: poisson, gamma, burst or diurnal.")
    ] = "poisson",
    factor: Annotated[
        float,
        typer.Option("--factor", min=0.0, help="Of the demand; of a trace, how much faster."),
    ] = 1.0,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=1.0, help="In which requests arrive; default 600, or all of a trace."
        ),
    ] = None,
    warm_up: Annotated[
        float, typer.Option("--warm-up", min=0.0, help="Seconds before that are not counted.")
    ] = 0.0,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="A plan saved with --json, not a new one."),
    ] = None,
    autoscale: Annotated[
        bool,
        typer.Option("--autoscale", help="Every model's demand is measured and planned for anew."),
    ] = False,
    scale_to_zero: Annotated[
        float | None,
        typer.Option(
            "--scale-to-zero", min=1.0, metavar="SECONDS", help="Idle for so long, to zero."
        ),
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="At the beginning no engine runs: all are started.")
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="For each plan.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals, lengths and draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate a fleet under load: goodput, latency, GPU hours, energy.

    Plans the file as `plan --from` does, and lets requests come to the plan in simulated time:
    admission, dispatch, scaling and the starting and stopping of engines are decided by the code
    that decides them in production. Needs no daemon and no GPU.
    """
    from partitiond.cli.tools.fleet_simulation import Simulated, simulate

    check_time_limit(time_limit)
    check_finite(factor=factor, seconds=seconds, warm_up=warm_up, scale_to_zero=scale_to_zero)
    if factor == 0:
        raise InputError("--factor 0 leaves no requests.", hint="As 2 for twice the demand.")
    if scale_to_zero is not None and not autoscale:
        raise InputError("--scale-to-zero is a part of --autoscale.", hint="Give both.")
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
        warm_up_seconds=warm_up,
        plan=plan,
        autoscale=autoscale,
        zero_seconds=scale_to_zero,
        cold=cold,
        time_limit_seconds=time_limit,
        seed=seed,
    )
    report = simulate(asked, settings_of(ctx))
    emit(report, as_json=as_json, render=lambda: render_report(report))
