"""Turns placement options into rules, and words demand and placement."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import typer

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import Demand, ModelSpec, PlacementRules
from partitiond.planner.model.ties import names_of


def rules_body(
    avoid: list[str] | None,
    near: list[str] | None,
    only_on: list[str] | None,
    *,
    survive: str | None,
    survive_share: float | None,
    priority: int | None,
) -> dict[str, Any]:
    """The placement rules that were given, as part of a body; "none" takes a rule back.

    Raises:
        typer.BadParameter: "none" stands beside names.
    """
    body: dict[str, Any] = {}
    for name, values in (("avoid", avoid), ("near", near), ("only_on", only_on)):
        if not values:
            continue
        if "none" in values and len(values) > 1:
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--{option} none takes the rule back: give it alone.")
        body[name] = [] if values == ["none"] else list(values)
    if survive is not None:
        body["survive"] = None if survive == "none" else survive
    if survive_share is not None:
        body["survive_share"] = survive_share
    if priority is not None:
        body["priority"] = priority
    return body


def unknown_names(
    rules: PlacementRules, devices: Sequence[Device], models: Collection[str]
) -> Iterator[str]:
    """Name what rules mean and is not there now: it may come, or be mistyped. Pure."""
    places = {name for device in devices for name in names_of(device)}
    for option, names, there in (
        ("only-on", rules.only_on, places),
        ("near", rules.near, models),
        ("avoid", rules.avoid, models),
    ):
        for name in names:
            if name not in there:
                close = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
                meant = f" Did you mean {close[0]}?" if close else ""
                yield f"--{option} {name}: there is nothing of that name now.{meant}"


def demand_text(demand: Demand) -> str:
    """The demand in words, with the rate that is planned for it."""
    planned = demand.planned_req_per_s
    if demand.req_per_s is None or planned is None:
        return "as much as there is"
    text = f"{demand.req_per_s:.4g} requests/s"
    if demand.burst_factor != 1:
        text += f", bursts of {demand.burst_factor:g} times that"
    if demand.percentile is not None:
        text += f", percentile {demand.percentile:g} of {demand.window_seconds:g} s"
    return text if planned == demand.req_per_s else f"{text}: planned for {planned:.4g}"


def placement_text(spec: ModelSpec) -> str:
    """Isolation and placement rules in words."""
    rules, parts = spec.rules, []
    if spec.isolation != "shared":
        parts.append(f"isolation {spec.isolation}")
    if spec.isolation_group:
        parts.append(f"isolation group {spec.isolation_group}")
    parts += [
        f"{word} {', '.join(names)}"
        for word, names in (
            ("never beside", rules.avoid),
            ("on hosts of", rules.near),
            ("only on", rules.only_on),
        )
        if names
    ]
    if rules.survive is not None:
        share = "" if rules.survive_share == 1 else f" with {rules.survive_share:.0%} of the rate"
        parts.append(f"survives the loss of any {rules.survive}{share}")
    if rules.priority:
        parts.append(f"priority {rules.priority:+d}")
    return "; ".join(parts) or "anywhere"
