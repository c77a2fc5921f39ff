"""Describes in one line what each objective buys; every text for people takes it from here."""

from collections.abc import Iterable
from typing import Any, Final

from partitiond.core.plan.record import Objective, Status

BUYS: Final = {
    Objective.MIN_DEVICES: "all demand on the fewest devices, of as many the cheapest found",
    Objective.MIN_PRICE: "all demand at the least price per hour",
    Objective.MIN_ENERGY: "all demand at the least charge in watts of devices and replicas",
    Objective.MAX_GOODPUT: "the most weighted requests/s from the devices there are",
    Objective.MAX_MIN: "the worst served model as well served as can be, then the most goodput",
}
"""By objective: what a plan made for it gives."""

REMOVED: Final = {
    "min-power": "Take min-energy, or min-devices: fewer devices need less power to be provided.",
    "max-headroom": 'Take max-goodput or max-min; --what-if "demand *1.5" asks how far demands '
    "may grow.",
}
"""Objectives of earlier releases, and what to take in place of each."""


def objectives_told(objectives: Iterable[Objective] = tuple(Objective)) -> str:
    """List objectives, each with what it buys, as one line of a help text or an error."""
    return "; ".join(f"{objective.value}: {BUYS[objective]}" for objective in objectives)


def instead_of(name: str) -> str:
    """Say which objective to take in place of a name that is none."""
    return REMOVED.get(name.lower()) or f"Use one of these: {objectives_told()}."


def not_removed(name: object) -> object:
    """Return the name of an objective. Raises ValueError if an earlier release had it."""
    if isinstance(name, str) and name in REMOVED:
        raise ValueError(f"this objective was removed. {REMOVED[name]}")
    return name


def with_present_objective(body: Any) -> Any:
    """Return a stored plan that can be read, whatever objective it was made for; what is no plan
    is returned as it is, for the reader to refuse.

    Placements and forecasts of a plan for a removed objective hold as they are. What was proven
    for that objective says nothing of another one, so the certificate counts the devices only.
    """
    try:
        told = body["certificate"]
        if told["objective"] not in REMOVED:
            return body
        devices = {placement["device_id"] for placement in body["placements"]}
    except (KeyError, TypeError):
        return body
    certificate = {
        "objective": Objective.MIN_DEVICES,
        "value": float(len(devices)),
        "bound": 0.0,
        "gap": 1.0 if devices else 0.0,
        "status": Status.FEASIBLE,
        "method": f"made for {told['objective']}, which is no objective any more",
        "seconds": 0.0,
        "for_estimates": told.get("for_estimates", False),
        "partial": told.get("partial", False),
    }
    return {**body, "certificate": certificate}
