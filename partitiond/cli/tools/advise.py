"""Implements `partitiond tools advise`: finds GPUs a plan would free in a foreign deployment."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, check_time_limit, option, spread
from partitiond.cli.output import out, print_json
from partitiond.core.errors import InputError

if TYPE_CHECKING:
    from partitiond.cli.tools.local_advise import AdviseRequest

DEFAULT_MINUTES: Final = 5.0
DEFAULT_EVERY_SECONDS: Final = 5.0


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
    minutes: float = option("How long to watch the addresses.", default=DEFAULT_MINUTES),
    every: float = option("Between two looks.", default=DEFAULT_EVERY_SECONDS, metavar="SECONDS"),
    gpu: list[str] | None = option("What the engines run on; repeatable.", metavar='"4 a100-80gb"'),
    fleet: Path | None = option(
        "Devices, and what served names are: models, SLOs and rules of a fleet file.",
        metavar="FILE",
    ),
    profiles: list[Path] | None = option(
        "Measured profiles, files or folders; repeatable.", metavar="PATH"
    ),
    time_limit: float = option("For each of three plans.", default=5.0, metavar="SECONDS"),
    as_json: JsonOption = False,
) -> None:
    """Say which GPUs a plan would free of a running deployment.

    Read-only: it asks vLLM's /metrics for some minutes, derives demand and lengths, and
    plans the same demand three times: for the low end, the middle and the high end of what was
    seen. It starts and changes nothing.
    """
    from partitiond.cli.tools.local_advise import AdviseRequest

    check_time_limit(time_limit)
    asked = AdviseRequest(
        addresses=tuple(address or ()),
        seconds=_positive("--minutes", minutes, "minutes") * 60,
        every_seconds=_positive("--every", every, "seconds"),
        gpus=tuple(gpu or ()),
        fleet=fleet,
        profiles=tuple(profiles or ()),
        time_limit_seconds=time_limit,
    )
    _check_sources(asked)
    _answer(ctx, asked, as_json=as_json)


def _answer(ctx: typer.Context, asked: "AdviseRequest", *, as_json: bool) -> None:
    """Watch the engines, plan, show the advice, and exit."""
    from partitiond.cli.tools.advise_view import render_advice, to_plain
    from partitiond.cli.tools.local_advise import run_advise

    advice = run_advise(ctx, asked)
    if as_json:
        print_json(to_plain(advice))
    else:
        out().print(render_advice(advice))
    raise typer.Exit(Exit.OK if advice.levels and advice.levels[0].plan else Exit.UNPLACED)


def _check_sources(asked: "AdviseRequest") -> None:
    """Raises InputError unless engines are named and the watch spans two looks."""
    if not asked.addresses:
        raise InputError("no engine is named.", hint="As --address http://127.0.0.1:8000 for each.")
    if asked.seconds < asked.every_seconds:
        raise InputError(
            "--minutes is shorter than --every: nothing happens between one look.",
            hint="Watch for at least two looks; 5 minutes are usual.",
        )


def _positive(option: str, value: float, unit: str) -> float:
    if not (math.isfinite(value) and 0 < value <= 1e6):
        raise InputError(f"{option} must be a number above 0, got {value:g}.", hint=f"In {unit}.")
    return value
