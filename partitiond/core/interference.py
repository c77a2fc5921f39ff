"""What sharing a device costs: the factor sigma by which co-located replicas slow each other down.

Replica i alone uses the share u_i (`Candidate.busy`) of the resource that a mode shares: GPU busy
time when compute is time-sliced, memory bandwidth under MPS. With n replicas on one device

    sigma = max(1, u_1 + ... + u_n) * (1 + kappa * (n - 1))

and every rate is divided by sigma, every latency multiplied by it. Plans use the smallest of a
few *levels* at or above sigma: at a given level the rates are constants, which keeps the planner
linear, and a plan promises no more than the level does.

This is the first form: one shared resource per mode, and kappa from published figures until
replication runs on the device give its own. CPU cores are exclusive; what their engines share is
memory bandwidth, for which there is no telemetry yet: u = kappa = 0 there, and the profile's
margins have to cover it.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.hardware import SharingMode
from partitiond.core.units import MIB, ZERO_BYTES, Bytes

TOLERANCE: Final = 1e-8
"""Slack when a sum of shares is compared with a limit, so that 0.1 + 0.2 fits into 0.3."""

LEVELS_TIME_SLICED: Final = (1.0, 1.1, 1.25, 1.5, 2.1, 3.3, 4.6)
"""Levels of sigma. 2.1, 3.3 and 4.6 are what two, three and four saturated replicas reach when
time-sliced with kappa 0.05; beyond, a replica gets less than a fifth of its speed."""

LEVELS_MPS: Final = (1.0, 1.04, 1.1, 1.2, 1.35, 1.6, 2.1)
"""The same under MPS, finer at first: with kappa 0.02 three replicas reach 1.04, six 1.1."""

MODE_OVERHEAD_BYTES: Final[dict[SharingMode, Bytes]] = {SharingMode.MPS: Bytes(256 * MIB)}
"""Device memory a mode takes by itself: the MPS server's context and buffers."""

MAX_REPLICAS_PER_DEVICE: Final[dict[SharingMode, int]] = {
    SharingMode.WHOLE: 1,
    SharingMode.MEMORY: 32,
    SharingMode.MPS: 48,
    SharingMode.MIG: 7,
    SharingMode.CORES: 256,
}
"""MPS: 48 clients before CUDA 13.1. MEMORY: no limit of the driver; more is never sensible."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interference:
    """Parameters of sigma.

    Attributes:
        levels: levels of sigma a time-sliced device may take, ascending, the first one 1.
        levels_mps: the same under MPS.
        kappa_memory: loss per further replica when time-sliced (context switches).
        kappa_mps: loss per further replica under MPS (caches, scheduling).
        kappa_cores: loss per further replica on exclusive CPU cores.
    """

    levels: tuple[float, ...] = LEVELS_TIME_SLICED
    levels_mps: tuple[float, ...] = LEVELS_MPS
    kappa_memory: float = 0.05
    kappa_mps: float = 0.02
    kappa_cores: float = 0.0

    def kappa(self, mode: SharingMode) -> float:
        """The loss per further replica in `mode`; MIG and whole devices share no compute."""
        return {
            SharingMode.MEMORY: self.kappa_memory,
            SharingMode.MPS: self.kappa_mps,
            SharingMode.CORES: self.kappa_cores,
        }.get(mode, 0.0)

    def levels_of(self, mode: SharingMode) -> tuple[float, ...]:
        """Levels that a device in `mode` may take; only 1 where nothing is shared."""
        return {SharingMode.MEMORY: self.levels, SharingMode.MPS: self.levels_mps}.get(
            mode, (1.0,) if self.kappa(mode) == 0 else self.levels
        )


DEFAULT: Final = Interference()


def mode_overhead_bytes(mode: SharingMode) -> Bytes:
    """Device memory the mode takes by itself, whatever runs in it."""
    return MODE_OVERHEAD_BYTES.get(mode, ZERO_BYTES)


def sigma(mode: SharingMode, busy: Iterable[float], interference: Interference = DEFAULT) -> float:
    """The slow-down of replicas that share one device, at least 1.

    Args:
        mode: how they share it.
        busy: u_i of each replica alone, 0..1.
        interference: kappa and levels.
    """
    shares = list(busy)
    crowd = 1 + interference.kappa(mode) * max(0, len(shares) - 1)
    return max(1.0, math.fsum(shares)) * crowd


def level_of(mode: SharingMode, value: float, interference: Interference = DEFAULT) -> float | None:
    """The smallest level of the mode at or above sigma `value`; None where none is that high."""
    levels = interference.levels_of(mode)
    return next((x for x in levels if value <= x * (1 + TOLERANCE)), None)
