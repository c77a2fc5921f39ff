"""Defines the options of `partitiond tools advise`, as typed and as parsed."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import FaultDomain
from partitiond.core.plan.record import Objective

AddressOption = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        "-a",
        metavar="URL[=GPU]",
        help="A vLLM server, and the GPU it is on where that is not found; repeatable.",
    ),
]
MinutesOption = Annotated[float, typer.Option("--minutes", help="How long to watch the addresses.")]
EveryOption = Annotated[
    float, typer.Option("--every", metavar="SECONDS", help="Between two looks.")
]
PrometheusOption = Annotated[
    str | None,
    typer.Option("--prometheus", metavar="URL", help="Ask this Prometheus instead."),
]
SpanOption = Annotated[
    str, typer.Option("--range", metavar="1h|7d", help="Of the Prometheus, up to now.")
]
SelectOption = Annotated[
    str,
    typer.Option("--select", metavar="MATCHERS", help="""Narrow it, as 'namespace="llm"'."""),
]
WindowOption = Annotated[
    float | None,
    typer.Option(
        "--window",
        metavar="MINUTES",
        help="Plan for the busiest so many minutes; default all that is watched, 15 of a "
        "Prometheus.",
    ),
]
GpuOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu", metavar='"4 a100-80gb"', help="What the engines run on; default this host's."
    ),
]
FleetOption = Annotated[
    Path | None,
    typer.Option("--fleet", metavar="FILE", help="Devices, SLOs and rules from a fleet file."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME=MODEL", help="What a served name is; repeatable."),
]
ProfilesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--profiles", metavar="PATH", help="Measured profiles, files or folders; repeatable."
    ),
]
SloTtftOption = Annotated[
    float | None,
    typer.Option("--slo-ttft", metavar="SECONDS", help="Bound on the time to first token."),
]
SloTpotOption = Annotated[
    float | None,
    typer.Option("--slo-tpot", metavar="SECONDS", help="Bound on the time per output token."),
]
BurstOption = Annotated[
    float, typer.Option("--burst", help="Peak over mean within the window to plan for.")
]
ModeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mode", metavar="whole|memory|mps|mig", help="Allow only this sharing; repeatable."
    ),
]
SurviveOption = Annotated[
    str | None,
    typer.Option(
        "--survive", metavar="device|host|rack", help="Serve on when any one of these is lost."
    ),
]

KeepContextOption = Annotated[
    bool,
    typer.Option("--keep-context", help="Plan for the engines' whole context lengths."),
]
ObjectiveOption = Annotated[
    str, typer.Option("--objective", metavar="min-devices|min-price|min-power|min-energy")
]
TimeLimitOption = Annotated[
    float, typer.Option("--time-limit", metavar="SECONDS", help="For each of three plans.")
]
DrawOption = Annotated[
    bool, typer.Option("--draw", help="Also draw the plan for the high end of the demand.")
]


@dataclasses.dataclass(frozen=True, slots=True)
class AdviseRequest:
    """The options, parsed and checked.

    Attributes:
        addresses: where engines answer; empty with a Prometheus.
        seconds: how long to watch the addresses.
        every_seconds: seconds between two looks.
        range_seconds: length of the range of the Prometheus that is read; it ends now.
        window_seconds: length of the busiest window to plan for; None for all that is seen.
        models: the model behind each served name.
    """

    addresses: tuple[str, ...]
    seconds: float
    every_seconds: float
    prometheus: str | None
    range_seconds: float
    select: str
    gpus: tuple[str, ...]
    fleet: Path | None
    models: dict[str, str]
    profiles: tuple[Path, ...]
    slo: tuple[float, float] | None
    window_seconds: float | None
    burst_factor: float
    modes: tuple[SharingMode, ...]
    survive: FaultDomain | None
    keep_context: bool
    objective: Objective
    time_limit_seconds: float
