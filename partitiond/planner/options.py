"""The ways to run one device: alone, or a sharing mode at a level and a kappa."""

import itertools
import math
from collections.abc import Iterable

from partitiond.core.hardware import SharingMode
from partitiond.core.interference import (
    MAX_REPLICAS_PER_DEVICE,
    TOLERANCE,
    Interference,
    mode_overhead_bytes,
)
from partitiond.planner.pools import mib_up
from partitiond.planner.types import SHARE_SCALE, Item, Option


def options_of(
    modes: Iterable[SharingMode], cores: int, interference: Interference, items: Iterable[Item]
) -> list[Option]:
    """All ways to run a device that allows `modes`: alone first, then mode by level by kappa.

    Levels ascend, and kappas within a level, so the first option that holds a set of replicas is
    the one at their own level and kappa.

    Args:
        modes: sharing modes of the device.
        cores: of the device; 0 where they do not limit.
        interference: levels.
        items: what may be on the device; their kappas are the ones there are.
    """
    there = list(items)
    found = [Option(0, None, 1.0, 1, (0, SHARE_SCALE), 0, 0, math.inf)]
    for mode in modes:
        mine = [item for item in there if item.candidate.size.mode is mode]
        if mode in (SharingMode.WHOLE, SharingMode.MIG) or not mine:
            continue
        limit = MAX_REPLICAS_PER_DEVICE[mode]
        limit = min(limit, cores) if cores else limit
        kappas = sorted({item.kappa for item in mine})
        free = max(kappas) == 0 and not any(item.busy for item in mine)
        levels = (1.0,) if free else interference.levels_of(mode)
        for level, kappa in itertools.product(levels, kappas):
            found.append(_option(len(found), mode, level, kappa, limit))
    return found


def _option(index: int, mode: SharingMode, level: float, kappa: float, limit: int) -> Option:
    crowd = limit if kappa == 0 else math.floor((level - 1) / kappa + 1 + TOLERANCE)
    count = min(limit, crowd)
    return Option(
        index=index,
        mode=mode,
        level=level,
        max_items=count,
        busy_limit=tuple(_busy_limit(level, kappa, n) for n in range(count + 1)),
        kappa=math.ceil(kappa * SHARE_SCALE),
        overhead_mib=mib_up(mode_overhead_bytes(mode)),
        kappa_limit=kappa,
    )


def _busy_limit(level: float, kappa: float, count: int) -> int:
    return math.floor(level / (1 + kappa * max(0, count - 1)) * SHARE_SCALE + 1e-3)
