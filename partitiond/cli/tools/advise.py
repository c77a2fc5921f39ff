"""Implements `partitiond tools advise`: finds GPUs a plan would free in a foreign deployment."""

import math
from pathlib import Path
from typing import Final

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, check_time_limit, option, settings_of, spread
from partitiond.cli.output import emit
from partitiond.core.errors import InputError

DEFAULT_MINUTES: Final = 5.0


@spread
def advise(
    ctx: typer.Context,
    *,
    address: list[str] | None = option(
        "A vLLM server, and the GPU it is on; repeatable.",
        "--address",
        "-a",
        metavar="URL[=GPU]",
    ),
    minutes: float = option("Between the two looks.", default=DEFAULT_MINUTES),
    gpu: list[str] | None = option("What the engines run on; repeatable.", metavar='"4 a100-80gb"'),
    fleet: Path | None = option(
        "Devices, and what served names are: models, SLOs and rules of a fleet file.",
        metavar="FILE",
    ),
    time_limit: float = option("For the plan.", default=5.0, metavar="SECONDS"),
    as_json: JsonOption = False,
) -> None:
    """Say which GPUs a plan would free of a running deployment.

    Read-only: it looks at vLLM's /metrics twice, derives demand and lengths, and plans the same
    demand on the same GPUs. It starts and changes nothing.
    """
    from partitiond.cli.tools.advise_view import render_advice, to_plain
    from partitiond.cli.tools.local_advise import AdviseRequest, run_advise

    check_time_limit(time_limit)
    if not (math.isfinite(minutes) and 0 < minutes <= 1e6):
        raise InputError(f"--minutes must be a number above 0, got {minutes:g}.", hint="As 5.")
    if not address:
        raise InputError("no engine is named.", hint="As --address http://127.0.0.1:8000 for each.")
    asked = AdviseRequest(tuple(address), 60 * minutes, tuple(gpu or ()), fleet, time_limit)
    advice = run_advise(asked, settings_of(ctx))
    emit(to_plain(advice), as_json=as_json, render=lambda: render_advice(advice))
    raise typer.Exit(Exit.OK if advice.plan is not None else Exit.UNPLACED)
