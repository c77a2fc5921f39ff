"""Implements `partitiond models scaling`: shows the models that scale by themselves."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from partitiond.cli.columns import Column, table_of
from partitiond.cli.ids import argument_of
from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit
from partitiond.core.views.scaling import ScalingView


def scaling(
    ctx: typer.Context,
    name: Annotated[
        str | None, argument_of("model", "[MODEL]", "Only this model, with the reason.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the demand of models that scale by themselves.

    What is asked of them, what is foretold, and what is planned for.

    Rates are in requests/s: asked in the last step, expected, at most expected, planned for, and
    what the applied plan gives.

    `partitiond models update MODEL --autoscale --scale-to-zero 600` makes a model one of them.
    """
    with client_of(ctx) as client:
        found = client.scaling() if name is None else [client.scaling_of(name)]
    if name is not None:
        emit(found[0], as_json=as_json, render=lambda: _table(found, reasons=True))
        return
    emit(found, as_json=as_json, render=lambda: _table(found))


def _table(views: Sequence[ScalingView], *, reasons: bool = False) -> RenderableType:
    if not views:
        return "No model scales by itself."
    table = table_of(
        views,
        Column("model", lambda view: view.model, right=False),
        Column("state", _state, right=False),
        Column(
            "max",
            lambda view: "" if view.max_replicas is None else str(view.max_replicas),
            right=True,
        ),
        Column("asked", lambda view: _rate(view.measured_req_per_s)),
        Column("expected", lambda view: _rate(view.forecast_req_per_s)),
        Column("at most", lambda view: _rate(view.upper_req_per_s)),
        Column("planned", lambda view: _rate(view.planned_req_per_s)),
        Column("gives", lambda view: _rate(view.capacity_req_per_s)),
        Column("idle", lambda view: _seconds(view.idle_seconds)),
    )
    if not reasons:
        return table
    said = [f"{view.changed_at}  {view.reason}" for view in views if view.reason]
    return Group(table, *said)


def _state(view: ScalingView) -> str:
    waits = f", {view.waiting} waiting" if view.waiting else ""
    if view.at_zero:
        return f"at zero{waits}"
    return f"{view.replicas_serving}/{view.replicas_planned} serve{waits}"


def _rate(req_per_s: float | None) -> str:
    return "" if req_per_s is None else f"{req_per_s:.3g}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s"
