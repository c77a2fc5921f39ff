"""Computes sigma, the factor by which replicas on one device slow each other down.

Replica i alone uses the share u_i (`Candidate.busy`) of the resource that a mode shares: GPU busy
time when compute is time-sliced, SM and memory activity under MPS, memory bandwidth on CPU cores.
With n replicas on one device

    sigma = max(1, u_1 + ... + u_n) * (1 + kappa * (n - 1))

and every rate is divided by sigma, every latency multiplied by sigma. GPU instances of MIG share
nothing of the device: their sigma is 1. The host's cores are shared in every mode; plans give each
engine its own cores, as many as it used when measured, so that engines do not slow each other down.

kappa and u come from replication runs, which the GPU check makes, if a profile has them; else kappa
is the mode's default, from published figures. If replicas on one device have different kappas, the
largest counts.

Plans use the smallest of a few *levels* at or above sigma: at a given level the rates are
constants, which keeps the planner linear, and a plan never promises more than its level allows.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import MIB, ZERO_BYTES, Bytes

if TYPE_CHECKING:
    from partitiond.core.profile.sharing import PairRun, Sharing

TOLERANCE: Final = 1e-8
"""Slack when a sum of shares is compared with a limit, so that 0.1 + 0.2 fits into 0.3."""

LEVELS_TIME_SLICED: Final = (1.0, 1.1, 1.25, 1.5, 2.1, 3.3, 4.6)
"""Levels of sigma. Two, three and four saturated replicas reach 2.1, 3.3 and 4.6 if time-sliced
with kappa 0.05; beyond that, a replica gets less than a fifth of its speed."""

LEVELS_MPS: Final = (1.0, 1.04, 1.1, 1.2, 1.35, 1.6, 2.1)
"""Levels under MPS, finer at first: with kappa 0.02 three replicas reach 1.04, six 1.1."""

LEVELS_CORES: Final = (1.0, 1.04, 1.1, 1.2, 1.35, 1.6, 2.1, 3.0, 4.5)
"""Levels on CPU cores, which share caches and memory bandwidth. Small engines that decode reach
the bandwidth of a socket with a few cores, so the later levels are as real as the first ones."""

KAPPA_STEPS: Final = (
    0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0,
)  # fmt: skip
"""Plans round measured kappas up to one of these: the planner runs each device at a level and at
most at one kappa, and a handful of kappas keeps its choices few."""

MODE_OVERHEAD_BYTES: Final[dict[SharingMode, Bytes]] = {SharingMode.MPS: Bytes(256 * MIB)}
"""Device memory that a mode takes by itself: the MPS server's context and buffers."""

MAX_REPLICAS_PER_DEVICE: Final[dict[SharingMode, int]] = {
    SharingMode.WHOLE: 1,
    SharingMode.MEMORY: 32,
    SharingMode.MPS: 48,
    SharingMode.MIG: 7,
    SharingMode.CORES: 256,
}
"""MPS: 48 clients before CUDA 13.1. MEMORY: no limit of the driver; more is never sensible."""

ALONE: Final = (SharingMode.WHOLE, SharingMode.MIG)
"""Modes in which an engine shares no compute with another."""

DERATE_FROM: Final = 0.15
"""Plans derate if the 90th percentile of the errors of pair predictions exceeds this. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interference:
    """Parameters of sigma without a measurement, and the levels that sigma is rounded up to.

    Attributes:
        levels: levels of sigma that a time-sliced device may take, ascending, the first one 1.
        levels_mps: the same under MPS.
        kappa_memory: loss per further replica when time-sliced (context switches).
        kappa_mps: loss per further replica under MPS (caches, scheduling).
        kappa_cores: loss per further replica on exclusive CPU cores.
        levels_cores: levels of a CPU device.
    """

    levels: tuple[float, ...] = LEVELS_TIME_SLICED
    levels_mps: tuple[float, ...] = LEVELS_MPS
    kappa_memory: float = 0.05
    kappa_mps: float = 0.02
    kappa_cores: float = 0.0
    levels_cores: tuple[float, ...] = LEVELS_CORES

    def kappa(self, mode: SharingMode) -> float:
        """Return the loss per further replica; MIG and whole devices share no compute."""
        return {
            SharingMode.MEMORY: self.kappa_memory,
            SharingMode.MPS: self.kappa_mps,
            SharingMode.CORES: self.kappa_cores,
        }.get(mode, 0.0)

    def levels_of(self, mode: SharingMode) -> tuple[float, ...]:
        """Return the levels that a device in `mode` may take; only 1 if nothing is shared."""
        return {
            SharingMode.MEMORY: self.levels,
            SharingMode.MPS: self.levels_mps,
            SharingMode.CORES: self.levels_cores,
        }.get(mode, (1.0,))


DEFAULT: Final = Interference()


def mode_overhead_bytes(mode: SharingMode) -> Bytes:
    """Return the device memory that the mode takes by itself, whatever runs in it."""
    return MODE_OVERHEAD_BYTES.get(mode, ZERO_BYTES)


def device_kappa(
    mode: SharingMode, kappas: Iterable[float | None], interference: Interference = DEFAULT
) -> float:
    """Return the kappa of a device: the largest of its replicas'; None is the mode's default."""
    default = interference.kappa(mode)
    return max((default if k is None else k for k in kappas), default=default)


def sigma(
    mode: SharingMode,
    busy: Iterable[float],
    interference: Interference = DEFAULT,
    kappas: Iterable[float | None] = (),
) -> float:
    """Return the slow-down of replicas that share one device, at least 1.

    Args:
        mode: how the replicas share the device.
        busy: u_i of each replica alone, 0..1.
        interference: default kappas and levels.
        kappas: measured kappa of each replica, None for the mode's default; empty for all None.
    """
    shares = list(busy)
    if mode is SharingMode.MIG:
        return 1.0
    crowd = 1 + device_kappa(mode, kappas, interference) * max(0, len(shares) - 1)
    return max(1.0, math.fsum(shares)) * crowd


def level_of(mode: SharingMode, value: float, interference: Interference = DEFAULT) -> float | None:
    """Return the smallest level of the mode at or above sigma `value`; None if none is."""
    levels = interference.levels_of(mode)
    return next((x for x in levels if value <= x * (1 + TOLERANCE)), None)


# -- values for plans ------------------------------------------------------------------------


def planned_kappa(sharing: "Sharing") -> float | None:
    """Return the kappa that plans use, from the measurements; None if the default holds.

    It is the measured kappa, raised so that sigma of two replicas covers the error of pair
    predictions (`pair_derate`): (1 + kappa') = (1 + kappa) / (1 - derate). For more than two
    replicas the factor is at least the same. The result is rounded up to one of `KAPPA_STEPS`.
    """
    derate = pair_derate(sharing.pairs)
    if not sharing.runs and derate == 0:
        return None
    kappa = sharing.kappa if sharing.runs else DEFAULT.kappa(SharingMode(sharing.mode))
    raised = (1 + kappa) / (1 - derate) - 1
    return next((step for step in KAPPA_STEPS if raised <= step + TOLERANCE), raised)


def _speed_ratios(pair: "PairRun") -> Iterable[float]:
    """Yield the measured / predicted speed, for the rates and (as 1 / TPOT) the TPOTs."""
    for wanted, got in zip(
        pair.predicted_output_tokens_per_s, pair.measured_output_tokens_per_s, strict=True
    ):
        yield got / wanted if wanted > 0 else 1.0
    for wanted, got in zip(
        pair.predicted_tpot_p95_seconds, pair.measured_tpot_p95_seconds, strict=True
    ):
        yield wanted / got if got > 0 else 1.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile with linear interpolation, as numpy's default."""
    position = (len(ordered) - 1) * share
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def pair_derate(pairs: Sequence["PairRun"]) -> float:
    """Return the share of the predicted rate that plans subtract for wrong pair predictions.

    The share is 0 while the 90th percentile of the errors of all rates and TPOTs is within
    `DERATE_FROM`; then it is that of the errors on the harmful side alone (slower than predicted;
    faster ones count as 0), at most 0.9: a plan with less speed is useless.
    """
    ratios = [ratio for pair in pairs for ratio in _speed_ratios(pair)]
    errors = sorted(abs(ratio - 1) for ratio in ratios)
    if not errors or _quantile(errors, 0.9) <= DERATE_FROM:
        return 0.0
    return min(0.9, _quantile(sorted(max(0.0, 1 - ratio) for ratio in ratios), 0.9))
