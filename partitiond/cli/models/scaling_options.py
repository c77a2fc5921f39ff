"""Turns the scaling options of `models add` and `models update` into the API's body."""

from typing import Annotated, Any

import typer

AutoscaleOption = Annotated[
    bool | None,
    typer.Option(
        "--autoscale/--no-autoscale",
        help="Measure its demand, and apply plans that follow from that by itself.",
    ),
]
ToZeroOption = Annotated[
    float | None,
    typer.Option(
        "--scale-to-zero",
        metavar="SECONDS",
        help="Without a request for so long it gives up its engines, to be started by the next "
        "one; 0 for never. Implies --autoscale.",
    ),
]


def autoscale_body(autoscale: bool | None, to_zero: float | None) -> dict[str, Any]:
    """The part about scaling, as {"autoscale": ...}; empty if no option was given."""
    if autoscale is False:
        if to_zero:
            raise typer.BadParameter("--scale-to-zero and --no-autoscale exclude each other.")
        return {"autoscale": None}
    if to_zero is not None:
        return {"autoscale": {"scale_to_zero_seconds": to_zero or None}}
    return {"autoscale": {}} if autoscale else {}
