"""What devices and replicas cost under each objective that is a cost."""

import math
from collections.abc import Iterable

from partitiond.core.hardware import HARDWARE, Device
from partitiond.core.plan import Objective

IDLE_SHARE = 0.15
"""Draw without load as a share of the power limit, where it was not measured: data-centre GPUs
report 50 to 70 W of 350 to 700 W with a context loaded."""


def max_watts(device: Device) -> float | None:
    """The device's power limit; None where it is not known."""
    if device.max_watts is not None:
        return device.max_watts
    spec = HARDWARE.get(device.hardware)
    return spec.tdp_watts if spec is not None else None


def idle_watts(device: Device) -> float | None:
    """What the device draws without load; None where it is not known."""
    if device.idle_watts is not None:
        return device.idle_watts
    most = max_watts(device)
    return None if most is None else most * IDLE_SHARE


def no_prices(devices: Iterable[Device]) -> bool:
    """Whether no device has a price of its own: each then counts as 1 per hour."""
    return all(device.price_per_hour == 1.0 for device in devices)


def device_cost(device: Device, objective: Objective) -> float | None:
    """What using the device costs, whatever is on it; None where it is not known.

    One for `min-devices`, its price per hour, its power limit in watts, or its idle draw in watts
    (what replicas draw comes on top). For objectives that are no cost it is the price.
    """
    match objective:
        case Objective.MIN_DEVICES:
            return 1.0
        case Objective.MIN_POWER:
            return max_watts(device)
        case Objective.MIN_ENERGY:
            return idle_watts(device)
        case _:
            return device.price_per_hour


def replica_watts(
    watts: float, capacity_req_per_s: float, planned_req_per_s: float | None, least: int
) -> float:
    """What one replica is charged for under `min-energy`, in watts beyond the idle device.

    A model's planned rate D is routed over its replicas in proportion to their capacity. Of n
    replicas of one kind, the fewest that cover it, each is busy for D / (c n) of the time and
    draws w D / (c n). That is what every replica of the kind is charged, whatever the mix: a sum
    over replicas, so that solvers find and bound it, and the exact draw, w D / c, of a model whose
    replicas are of one kind and no more than cover its rate alone. (The exact draw of a mix,
    D (sum of w) / (sum of c), is a quotient.)

    Interference is left out: requests cost the same energy on a shared device, only later. Where
    it makes further replicas necessary they are charged as well, as are those beyond what covers
    the rate; no charge is a bound of the draw.

    Args:
        watts: w, at the operating point.
        capacity_req_per_s: c, alone on the device.
        planned_req_per_s: D; None for "as much as there is": it always runs.
        least: replicas the model has at least.
    """
    if planned_req_per_s is None:
        return watts
    covering = math.ceil(planned_req_per_s / capacity_req_per_s * (1 - 1e-9))
    return watts * planned_req_per_s / (capacity_req_per_s * max(1, least, covering))
