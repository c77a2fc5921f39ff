"""Describes in one line what each objective buys; every text for people takes it from here."""

from collections.abc import Iterable
from typing import Final

from partitiond.core.plan.record import Objective

BUYS: Final = {
    Objective.MIN_DEVICES: "all demand on the fewest devices, of as many the cheapest found",
    Objective.MIN_PRICE: "all demand at the least price per hour",
    Objective.MIN_ENERGY: "all demand at the least charge in watts of devices and replicas",
    Objective.MAX_GOODPUT: "the most weighted requests/s from the devices there are",
    Objective.MAX_MIN: "the worst served model as well served as can be, then the most goodput",
}
"""By objective: what a plan made for it gives."""


def objectives_told(objectives: Iterable[Objective] = tuple(Objective)) -> str:
    """List objectives, each with what it buys, as one line of a help text or an error."""
    return "; ".join(f"{objective.value}: {BUYS[objective]}" for objective in objectives)
