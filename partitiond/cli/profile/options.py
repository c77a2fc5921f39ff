"""Defines the options of `partitiond profile` that say where and how it measures."""

from pathlib import Path
from typing import Annotated

import typer

CoresOption = Annotated[
    int | None,
    typer.Option("--cores", min=1, metavar="N", help="Cores of the partition (CPU device)."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="Id of the device; no other like it will do [any]."
    ),
]
MaxBatchOption = Annotated[
    int | None,
    typer.Option("--max-batch", min=1, metavar="N", help="Largest batch of the sweep."),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option("--time-limit", min=1, metavar="SECONDS", help="Longest time of the sweep."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of the partition, as 12GiB; on a GPU it makes a memory share.",
    ),
]
MpsOption = Annotated[
    int | None,
    typer.Option(
        "--mps",
        min=1,
        max=100,
        metavar="PERCENT",
        help="Measure in an MPS share with so much of the SMs (GPU).",
    ),
]
MigOption = Annotated[
    str | None,
    typer.Option("--mig", metavar="PROFILE", help="Measure in a MIG slice, as 2g.20gb (GPU)."),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, metavar="N", show_default=False, help="Seed of the load [0]."),
]
VariantOption = Annotated[
    str | None,
    typer.Option("--variant", metavar="NAME", help="Measure this variant of the model."),
]
StructuredOption = Annotated[
    bool,
    typer.Option("--structured-output", help="Constrain answers to a small JSON schema."),
]
NoConfirmOption = Annotated[
    bool,
    typer.Option(
        "--no-confirm", help="Leave out the second start that confirms memory and capacity."
    ),
]
PaperOption = Annotated[
    int,
    typer.Option(
        "--paper-requests",
        min=0,
        max=10_000,
        metavar="N",
        show_default=False,
        hidden=True,  # only for reproducing the paper; serving models does not need it
        help="Also send N requests at once, as the paper does.",
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Begin anew: leave an interrupted profile's trials alone.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it (.png or .svg).")
]
