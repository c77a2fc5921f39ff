"""What of a large plan fits on a page: the worst served, the fullest, the emptiest, what is alike.

All are functions of a plan. A fleet that is not large is shown whole.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.plan import ModelForecast, Placement, Plan

T = TypeVar("T")

MANY_MODELS: Final = 50
"""Models from which on a plan is shown as a page: with as many rows its table alone is one."""
MANY_DEVICES: Final = 50
"""Devices in use from which on it is."""


def is_large(plan: Plan) -> bool:
    """Whether the plan is more than a page when all of it is shown."""
    used = len({p.device_id for p in plan.placements})
    return len(plan.forecasts) > MANY_MODELS or used > MANY_DEVICES


def worst_served(forecasts: Iterable[ModelForecast], most: int) -> tuple[ModelForecast, ...]:
    """Models without a replica first, then those with least to spare; without a rate last.

    Of as badly served ones those that lack most requests/s come first.
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
        memory_share: of its memory, what the partitions on it take.
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
        """Of what is used up most."""
        return max(self.memory_share, self.compute_share or 0.0)


def fills_of(plan: Plan) -> tuple[Fill, ...]:
    """Every device in use, in the order of the plan's devices."""
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
    """So many of both at most, and no device among both: of few all count as the fullest."""
    ordered = sorted(fills, key=lambda f: (-f.share, -f.memory_share))
    full = ordered[:most]
    empty = ordered[most:][-most:]
    return tuple(full), tuple(reversed(empty))


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """Devices of one kind that are shared in one way.

    Attributes:
        least, median, most: of the shares of their memory that are taken.
    """

    hardware: str
    mode: SharingMode
    devices: int
    replicas: int
    least: float
    median: float
    most: float


def kinds_of(fills: Iterable[Fill]) -> tuple[Kind, ...]:
    """The devices in use by kind and sharing mode, the most frequent first."""
    by_kind: dict[tuple[str, SharingMode], list[Fill]] = collections.defaultdict(list)
    for fill in fills:
        by_kind[fill.hardware, fill.mode].append(fill)
    found = []
    for (hardware, mode), mine in by_kind.items():
        shares = sorted(f.memory_share for f in mine)
        middle = shares[len(shares) // 2]
        replicas = sum(f.replicas for f in mine)
        found.append(Kind(hardware, mode, len(mine), replicas, shares[0], middle, shares[-1]))
    return tuple(sorted(found, key=lambda k: (-k.devices, k.hardware, k.mode.value)))


def alike(fills: Iterable[Fill]) -> tuple[tuple[Fill, ...], ...]:
    """Devices of one kind that hold the same, where two or more do; the largest group first."""
    groups: dict[object, list[Fill]] = collections.defaultdict(list)
    for fill in fills:
        groups[fill.hardware, fill.mode, fill.content].append(fill)
    return tuple(sorted((tuple(g) for g in groups.values() if len(g) > 1), key=len, reverse=True))


def first_of(items: Sequence[T], unusual: Sequence[bool], most: int) -> tuple[T, ...]:
    """So many at most, those that are not as usual first; each kind in its order.

    Args:
        items: all of them.
        unusual: for each whether somebody should look at it.
        most: to be shown.
    """
    pairs = list(zip(items, unusual, strict=True))
    look = [item for item, odd in pairs if odd]
    return tuple([*look, *(item for item, odd in pairs if not odd)][:most])
