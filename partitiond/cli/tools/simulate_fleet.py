"""Implements `partitiond tools simulate fleet`: runs a fleet under a trace or made-up traffic."""

from pathlib import Path
from typing import Annotated

import typer

from partitiond.cli.options import (
    JsonOption,
    check_finite,
    check_time_limit,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import emit
from partitiond.cli.tools.fleet_view import render_report
from partitiond.core.errors import InputError
from partitiond.simulated.fleet.arrivals import ArrivalKind


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
    warm_up: float = option("Seconds before that are not counted.", default=0.0, min=0.0),
    plan: Path | None = option("A plan saved with --json, not a new one.", metavar="FILE"),
    autoscale: bool = option("Every model's demand is measured and planned for anew."),
    scale_to_zero: float | None = option("Idle for so long, to zero.", min=1.0, metavar="SECONDS"),
    cold: bool = option("At the beginning no engine runs: all are started."),
    time_limit: float | None = option("For each plan.", metavar="SECONDS"),
    seed: int = option("Of arrivals, lengths and draws.", default=0),
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
