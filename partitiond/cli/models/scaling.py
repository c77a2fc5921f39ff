"""Draws how a model that scales by itself does so."""

from rich.console import RenderableType

from partitiond.cli.columns import fields, time_text
from partitiond.core.views.scaling import ScalingView


def scaling_table(view: ScalingView) -> RenderableType:
    """Draw the demand of a model in requests/s, from what is asked to what is planned for."""
    waits = f", {view.waiting} waiting" if view.waiting else ""
    serving = f"{view.replicas_serving}/{view.replicas_planned} serve"
    most = "no limit" if view.max_replicas is None else str(view.max_replicas)
    rows = (
        ("scales", ("scaled to zero" if view.scaled_to_zero else serving) + waits),
        ("at most", f"{most} replicas"),
        ("asked", _rate(view.measured_req_per_s)),
        ("expected", f"{_rate(view.forecast_req_per_s)}, at most {_rate(view.upper_req_per_s)}"),
        ("planned for", f"{_rate(view.planned_req_per_s)}; gives {_rate(view.capacity_req_per_s)}"),
        ("idle", "-" if view.idle_seconds is None else f"{view.idle_seconds:.0f} s"),
        ("last change", f"{time_text(view.changed_at)}  {view.reason}".strip(" -") or "none"),
    )
    return fields(rows)


def _rate(req_per_s: float | None) -> str:
    return "-" if req_per_s is None else f"{req_per_s:.3g}/s"
