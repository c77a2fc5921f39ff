"""Selects what a page shows of a large plan: worst served models; fullest, emptiest, equal devices.

All are functions of a plan. A fleet that is not large is shown whole.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.plan.record import ModelForecast, Placement, Plan

T = TypeVar("T")

MANY_MODELS: Final = 50
"""A plan with more models is shown as a page: the table of its models alone would fill one."""
MANY_DEVICES: Final = 50
"""A plan with more devices in use is shown as a page."""


def is_large(plan: Plan) -> bool:
    """Return whether the whole plan would take more than a page."""
    used = len({p.device_id for p in plan.placements})
    return len(plan.forecasts) > MANY_MODELS or used > MANY_DEVICES


def worst_served(forecasts: Iterable[ModelForecast], most: int) -> tuple[ModelForecast, ...]:
    """Order models: without a replica first, then by least headroom; without a rate last.

    Of equally badly served models, the one that lacks the most requests/s comes first.
    """
    return tuple(sorted(forecasts, key=_served)[:most])


def _served(forecast: ModelForecast) -> tuple[bool, float, float, str]:
    spare, wanted = forecast.headroom, forecast.demand_req_per_s or 0.0
    none = math.inf if spare is None else spare
    return forecast.replicas > 0, none, forecast.capacity_req_per_s - wanted, forecast.model


@dataclasses.dataclass(frozen=True, slots=True)
class Fill:
    """How full a device is.

    Attributes:
        memory_share: share of the device's memory in partitions.
        compute_share: of its SMs under MPS, of the cores of a CPU; None in other modes.
        content: its replicas by model, size and batch; equal for devices that hold the same.
    """

    device_id: str
    hardware: str
    mode: SharingMode
    replicas: int
    memory_share: float
    compute_share: float | None
    content: tuple[tuple[str, str, int], ...]

    @property
    def share(self) -> float:
        """Share of the scarcest resource in use."""
        return max(self.memory_share, self.compute_share or 0.0)


def fills_of(plan: Plan) -> tuple[Fill, ...]:
    """Return the fill of every device in use, in the order of the plan's devices."""
    here: dict[str, list[Placement]] = collections.defaultdict(list)
    for placement in plan.placements:
        here[placement.device_id].append(placement)
    return tuple(_fill(device, here[device.id]) for device in plan.devices if here[device.id])


def _fill(device: Device, here: Sequence[Placement]) -> Fill:
    mode, compute = here[0].partition.mode, None
    if mode is SharingMode.MPS:
        compute = sum(p.candidate.size.sm_percent for p in here) / 100
    elif device.kind is DeviceKind.CPU:
        compute = sum(p.candidate.size.cores for p in here) / max(1, len(device.cores))
    memory = sum(p.partition.memory_bytes for p in here) / max(1, device.memory_bytes)
    content = tuple(sorted((p.model, p.candidate.size.key, p.candidate.batch) for p in here))
    return Fill(device.id, device.hardware, mode, len(here), memory, compute, content)


def fullest_and_emptiest(
    fills: Sequence[Fill], most: int
) -> tuple[tuple[Fill, ...], tuple[Fill, ...]]:
    """Return at most `most` of each, with no device in both: few devices all count as fullest."""
    ordered = sorted(fills, key=lambda f: (-f.share, -f.memory_share))
    full = ordered[:most]
    empty = ordered[most:][-most:]
    return tuple(full), tuple(reversed(empty))


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceClassUse:
    """Devices of one kind and sharing mode.

    Attributes:
        least, median, most: of the devices' shares of memory in use.
    """

    hardware: str
    mode: SharingMode
    devices: int
    replicas: int
    least: float
    median: float
    most: float


def kinds_of(fills: Iterable[Fill]) -> tuple[DeviceClassUse, ...]:
    """Group the devices in use by kind and sharing mode, most frequent first."""
    by_kind: dict[tuple[str, SharingMode], list[Fill]] = collections.defaultdict(list)
    for fill in fills:
        by_kind[fill.hardware, fill.mode].append(fill)
    found = []
    for (hardware, mode), mine in by_kind.items():
        shares = sorted(f.memory_share for f in mine)
        middle = shares[len(shares) // 2]
        replicas = sum(f.replicas for f in mine)
        found.append(
            DeviceClassUse(hardware, mode, len(mine), replicas, shares[0], middle, shares[-1])
        )
    return tuple(sorted(found, key=lambda k: (-k.devices, k.hardware, k.mode.value)))


def alike(fills: Iterable[Fill]) -> tuple[tuple[Fill, ...], ...]:
    """Group two or more devices of one kind that hold the same; largest group first."""
    groups: dict[object, list[Fill]] = collections.defaultdict(list)
    for fill in fills:
        groups[fill.hardware, fill.mode, fill.content].append(fill)
    return tuple(sorted((tuple(g) for g in groups.values() if len(g) > 1), key=len, reverse=True))


def first_of(items: Sequence[T], unusual: Sequence[bool], most: int) -> tuple[T, ...]:
    """Return at most `most` items, unusual ones first; both sorts keep their order.

    Args:
        items: all items.
        unusual: for each item, whether an operator should look at it.
        most: number of items to show.
    """
    pairs = list(zip(items, unusual, strict=True))
    look = [item for item, odd in pairs if odd]
    return tuple([*look, *(item for item, odd in pairs if not odd)][:most])
