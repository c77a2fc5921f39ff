"""Defines the options that `partitiond tools estimate` and `transfer` share."""

from typing import Annotated

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A catalog name, a local folder, or a path to a config.json."
    ),
]
HardwareOption = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="NAME",
        help="As a100-40gb, l4, t4, a100-40gb:1g.5gb; 'cpu' measures this host's CPU.",
    ),
]
SmOption = Annotated[
    int | None,
    typer.Option("--sm-percent", min=1, max=100, help="An MPS share of the SMs."),
]
CoresOption = Annotated[int | None, typer.Option("--cores", min=1, help="Of a CPU; default all.")]

ProfilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="PROFILE...", help="Measured profiles: files, or ids."),
]
