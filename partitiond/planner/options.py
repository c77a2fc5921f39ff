"""The ways to run one device: alone, or a sharing mode at a level and a kappa."""

import itertools
import math
from collections.abc import Iterable

from partitiond.core.hardware import Device, SharingMode
from partitiond.core.interference import (
    MAX_REPLICAS_PER_DEVICE,
    TOLERANCE,
    Interference,
    mode_overhead_bytes,
)
from partitiond.core.mig import geometry_on
from partitiond.planner.figures import at_most
from partitiond.planner.types import SHARE_SCALE, Item, Option


def open_modes(device: Device) -> tuple[SharingMode, ...]:
    """Sharing modes in which a replica may be put onto the device as it is.

    None on a cordoned device. Where others hold GPU instances or run under MPS, the device's mode
    is decided: it cannot be changed while they run.
    """
    if device.cordoned or device.max_replicas == 0:
        return ()
    if device.occupied_slices:
        return tuple(m for m in device.modes if m is SharingMode.MIG)
    if device.occupied_sm_percent:
        return tuple(m for m in device.modes if m is SharingMode.MPS)
    return device.modes


def options_of(device: Device, interference: Interference, items: Iterable[Item]) -> list[Option]:
    """All ways to run a device: alone first, then mode by level by kappa.

    Levels ascend, and kappas within a level, so the first option that holds a set of replicas is
    the one at their own level and kappa.

    Args:
        device: its modes and limits count, not its size.
        interference: levels.
        items: what may be on the device; their kappas are the ones there are.
    """
    there = list(items)
    modes = open_modes(device)
    found = []
    # Where others are known to compute on the device nobody has it alone.
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
