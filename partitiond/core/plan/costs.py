"""Computes the cost of devices and replicas under each objective that is a cost."""

import math
from collections.abc import Iterable

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import IDLE_SHARE, Device
from partitiond.core.plan.record import Objective


def max_watts(device: Device) -> float | None:
    """Return the device's power limit; None if unknown."""
    if device.max_watts is not None:
        return device.max_watts
    spec = HARDWARE.get(device.hardware)
    return spec.tdp_watts if spec is not None else None


def idle_watts(device: Device) -> float | None:
    """Return watts that the device draws without load; None if unknown."""
    if device.idle_watts is not None:
        return device.idle_watts
    most = max_watts(device)
    return None if most is None else most * IDLE_SHARE


def no_prices(devices: Iterable[Device]) -> bool:
    """Return whether no device has a price of its own; each device then counts as 1 per hour."""
    return all(device.price_per_hour == 1.0 for device in devices)


def device_cost(device: Device, objective: Objective) -> float | None:
    """Return the cost of using the device, independent of its replicas; None if unknown.

    The cost is 1 for `min-devices`, the price per hour, or the idle draw in watts (the draw of
    replicas is added). For objectives that are no cost it is the price.
    """
    match objective:
        case Objective.MIN_DEVICES:
            return 1.0
        case Objective.MIN_ENERGY:
            return idle_watts(device)
        case _:
            return device.price_per_hour


def replica_watts(
    watts: float, capacity_req_per_s: float, planned_req_per_s: float | None, least: int
) -> float:
    """Charge of one replica under `min-energy`, in watts beyond the idle device.

    A model's planned rate D is routed over its replicas in proportion to their capacity. If n is
    the fewest replicas of one kind that cover D, each is busy for D / (c n) of the time and draws
    w D / (c n). Every replica of the kind is charged this, in any mix. The total is a sum over
    replicas, so solvers can minimise and bound it. It is the exact draw, w D / c, of a model whose
    replicas are of one kind and no more than cover its rate alone. (The exact draw of a mix,
    D (sum of w) / (sum of c), is a quotient.)

    Interference is left out: requests cost the same energy on a shared device, only later. If
    interference makes further replicas necessary, those are charged as well, and so are replicas
    beyond those that cover the rate; no charge is a bound of the draw.

    Args:
        watts: w, at the operating point.
        capacity_req_per_s: c, alone on the device.
        planned_req_per_s: D; None for "as much as there is": the replica is always busy.
        least: minimum number of the model's replicas.
    """
    if planned_req_per_s is None:
        return watts
    covering = math.ceil(planned_req_per_s / capacity_req_per_s * (1 - 1e-9))
    return watts * planned_req_per_s / (capacity_req_per_s * max(1, least, covering))
