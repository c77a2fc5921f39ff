"""What a device costs under each objective that is a cost."""

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
