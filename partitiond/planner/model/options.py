"""Lists the ways to run one device: alone, or in a sharing mode at a level and a kappa."""

import itertools
import math
from collections.abc import Iterable

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.mig.geometry import geometry_on
from partitiond.core.performance.interference import (
    MAX_REPLICAS_PER_DEVICE,
    TOLERANCE,
    Interference,
    mode_overhead_bytes,
)
from partitiond.planner.model.figures import at_most
from partitiond.planner.model.types import SHARE_SCALE, Item, Option


def open_modes(device: Device) -> tuple[SharingMode, ...]:
    """Return the sharing modes in which the device can take a replica as it is.

    None on a cordoned device. If foreign processes hold GPU instances or run under MPS, the mode is
    fixed: it cannot be changed while they run.
    """
    if device.cordoned or device.max_replicas == 0:
        return ()
    if device.occupied_slices:
        return tuple(m for m in device.modes if m is SharingMode.MIG)
    if device.occupied_sm_percent:
        return tuple(m for m in device.modes if m is SharingMode.MPS)
    return device.modes


def options_of(device: Device, interference: Interference, items: Iterable[Item]) -> list[Option]:
    """Return all ways to run a device: alone first, then mode by level by kappa.

    Levels ascend, and kappas within a level, so the first option that holds a set of replicas is
    the one at the replicas' own level and kappa.

    Args:
        device: the device; its modes and limits count, not its size.
        interference: the levels.
        items: items that may be on the device; only their kappas are used.
    """
    there = list(items)
    modes = open_modes(device)
    found = []
    # No replica is alone on a device where foreign processes are known to compute.
    if modes and not (device.occupied_slices or device.occupied_sm_percent):
        found.append(Option(None, 1.0, 1, (0, SHARE_SCALE), math.inf, 0))
    for mode in modes:
        mine = [item for item in there if item.candidate.size.mode is mode]
        if mode is SharingMode.WHOLE or not mine:
            continue
        geometry = geometry_on(device) if mode is SharingMode.MIG else None
        cores = min(item.cores for item in mine)
        limits = [MAX_REPLICAS_PER_DEVICE[mode]]
        limits += [len(device.cores) // cores] if device.cores and cores else []
        limits += [device.max_replicas] if device.max_replicas is not None else []
        limits += [geometry.most] if geometry is not None else []
        kappas = sorted({item.kappa for item in mine})
        free = max(kappas) == 0 and not any(item.busy for item in mine)
        levels = (1.0,) if free else interference.levels_of(mode)
        for level, kappa in itertools.product(levels, kappas):
            crowd = min(limits) if kappa == 0 else math.floor((level - 1) / kappa + 1 + TOLERANCE)
            count = min(*limits, crowd)
            option = Option(
                mode=mode,
                level=level,
                max_items=count,
                busy_limit=tuple(
                    math.ceil(at_most(level, kappa, n) * SHARE_SCALE) for n in range(count + 1)
                ),
                kappa=kappa,
                overhead_bytes=mode_overhead_bytes(mode),
                geometry=geometry,
            )
            found.append(option)
    return [option for option in found if option.max_items > 0]
