"""Computes sigma, the factor by which replicas on one device slow each other down.

Replica i alone uses the share u_i (`Candidate.busy`) of the resource that a mode shares: GPU busy
time when compute is time-sliced, SM and memory activity under MPS, memory bandwidth on CPU cores.
With n replicas on one device

    sigma = max(1, u_1 + ... + u_n) * (1 + kappa * (n - 1))

and every rate is divided by sigma, every latency multiplied by sigma. GPU instances of MIG share
nothing of the device: their sigma is 1. The host's cores are shared in every mode; plans give each
engine its own cores, as many as it used when measured, so that engines do not slow each other down.

kappa and u come from replication runs (`fit_sharing`) if a profile has them; else kappa is the
mode's default, from published figures. If replicas on one device have different kappas, the largest
counts.

Plans use the smallest of a few *levels* at or above sigma: at a given level the rates are
constants, which keeps the planner linear, and a plan never promises more than its level allows.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final

from partitiond.core.errors import ProfileError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.sharing import PairRun, ReplicationRun, Sharing
from partitiond.core.units import MIB, ZERO_BYTES, Bytes

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


# -- kappa and u from replication runs -------------------------------------------------------


def fit_sharing(runs: Sequence[ReplicationRun], cores_each: int | None = None) -> Sharing:
    """Fit kappa and u of one kind of replica, from runs of 1, 2, 3 ... replicas under load at once.

    u is the device's telemetry while one replica runs alone. Without telemetry, u is
    X_1 / max_n (X_1 + ... + X_n), the share of the device's best sum that one replica reaches;
    with two or more numbers of replicas, a smaller u is used if it explains the sums better. kappa
    is the least-squares fit of sigma_n / max(1, n u) - 1 over n - 1, at least 0. If there are runs
    with several batches, several replicas are compared with one replica at the same batch.

    Args:
        runs: of one sharing mode. Runs on a CPU device may be of several sizes: the fit uses only
            those of one size, the result keeps all.
        cores_each: size to fit on a CPU device; by default that of the run with most replicas.

    Raises:
        ProfileError: the runs are of several modes, or lack one replica alone or several.
    """
    if len({run.mode for run in runs}) != 1:
        raise ProfileError(
            "replication runs of one sharing mode are needed, of one at a time.",
            hint="Fit the runs of each mode by themselves.",
        )
    mode = SharingMode(runs[0].mode)
    if cores_each is None:
        cores_each = max(runs, key=lambda run: run.replicas).cores_each
    alike = [r for r in runs if mode is not SharingMode.CORES or r.cores_each == cores_each]
    counts = {run.replicas for run in alike}
    rates = [run.total_output_tokens_per_s for run in alike]
    if 1 not in counts or len(counts) < 2 or min(rates) <= 0:
        raise ProfileError(
            f"there are runs of {sorted(counts)} replicas of one size; sharing shows only in a "
            "replica alone beside several.",
            hint="Measure one replica alone and at least two at once.",
        )
    slow = _slow_downs(alike)
    told = [busy_share(mode, run.telemetry) for run in alike if run.replicas == 1]
    known = [share for share in told if share is not None]
    # u = X_1 / max_n (X_1 + ... + X_n), and sigma_n is n X_1 / (X_1 + ... + X_n).
    by_definition = min(1.0, *(value / n for n, value in slow.items()))
    busy = max(known) if known else _best_busy(by_definition, slow)
    return Sharing(mode.value, _fit_kappa(busy, slow), busy, tuple(runs))


def _slow_downs(runs: Sequence[ReplicationRun]) -> dict[int, float]:
    """Return sigma by number of replicas: n times the rate of one alone / the sum of all rates.

    Several replicas are compared with one alone at the same number of requests in flight. If none
    was measured so, they are compared with every replica that was measured alone.
    """
    alone = [run for run in runs if run.replicas == 1]
    found: dict[int, list[float]] = {}
    for run in runs:
        if run.replicas > 1:
            like = [one for one in alone if one.batch_each == run.batch_each] or alone
            single = math.fsum(one.total_output_tokens_per_s for one in like) / len(like)
            slow = run.replicas * single / run.total_output_tokens_per_s
            found.setdefault(run.replicas, []).append(slow)
    return {n: math.fsum(values) / len(values) for n, values in sorted(found.items())}


def busy_share(mode: SharingMode, told: Telemetry | None) -> float | None:
    """Return u of the shared resource, from the telemetry of a replica alone; None if unknown.

    u is the time the GPU was busy if time-sliced, and under MPS the more used one of SMs and
    device memory. A CPU exposes no counter of memory traffic, so u is always None there.
    """
    if told is None:
        return None
    match mode:
        case SharingMode.MEMORY:
            seen = [told.gpu_util]
        case SharingMode.MPS:
            seen = [told.sm_activity, told.dram_activity]
        case _:
            seen = []
    known = [value for value in seen if value is not None]
    return min(1.0, max(known)) if known else None


def _fit_kappa(busy: float, slow: dict[int, float]) -> float:
    """Fit kappa of sigma_n = max(1, n u) (1 + kappa (n - 1)) by least squares, relative errors."""
    pairs = [(n - 1, value / max(1.0, n * busy) - 1) for n, value in slow.items()]
    return max(0.0, math.fsum(x * y for x, y in pairs) / math.fsum(x * x for x, _ in pairs))


def _misfit(busy: float, slow: dict[int, float]) -> float:
    kappa = _fit_kappa(busy, slow)
    return math.fsum(
        (max(1.0, n * busy) * (1 + kappa * (n - 1)) / value - 1) ** 2 for n, value in slow.items()
    )


_BUSY_STEPS: Final = 500
"""Grid of u; throughputs are not known to 0.2 %. Chosen, not measured."""
_SAME_MISFIT: Final = 1e-6
"""Values of u whose squared relative errors differ by less count as equally good."""


def _best_busy(by_definition: float, slow: dict[int, float]) -> float:
    """Return the largest u up to the definition's that explains the sums as well as any.

    Two sums determine u and kappa only together: the definition decides. Its large u is the
    cautious choice, because it slows down other models beside this one as well.
    """
    most = min(1.0, by_definition)
    if len(slow) < 2:
        return most
    grid = [most * i / _BUSY_STEPS for i in range(_BUSY_STEPS + 1)]
    grid += [1 / n for n in slow if 1 / n <= most]
    misfits = {busy: _misfit(busy, slow) for busy in grid}
    least = min(misfits.values())
    return max(busy for busy, misfit in misfits.items() if misfit <= least + _SAME_MISFIT)


# -- values for plans ------------------------------------------------------------------------


def planned_kappa(sharing: Sharing) -> float | None:
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


@dataclasses.dataclass(frozen=True, slots=True)
class Single:
    """One model alone at its operating point: input of a pair's prediction.

    Attributes:
        busy: u of the resource that the mode shares.
        kappa: measured loss per further replica; None for the mode's default.
    """

    output_tokens_per_s: float
    tpot_p95_seconds: float
    busy: float
    kappa: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """Rates and latencies of replicas side by side, in the given order."""

    sigma: float
    output_tokens_per_s: tuple[float, ...]
    tpot_p95_seconds: tuple[float, ...]


def predict_shared(mode: SharingMode, singles: Sequence[Single]) -> Shared:
    """Predict replicas that share one device: rates divided by sigma, latencies times sigma."""
    slow = sigma(mode, (s.busy for s in singles), DEFAULT, [s.kappa for s in singles])
    return Shared(
        sigma=slow,
        output_tokens_per_s=tuple(s.output_tokens_per_s / slow for s in singles),
        tpot_p95_seconds=tuple(s.tpot_p95_seconds * slow for s in singles),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class PairErrors:
    """Errors of pair predictions, as shares of the prediction.

    Attributes:
        median, worst, p90: of the absolute errors of all rates and TPOTs.
        shortfall_p90: 90th percentile of the errors on the harmful side alone (slower than
            predicted; faster ones count as 0), as a share of the predicted rate.
        count: number of errors, four for each pair.
    """

    median: float
    worst: float
    p90: float
    shortfall_p90: float
    count: int


def pair_errors(pairs: Sequence[PairRun]) -> PairErrors | None:
    """Return the errors of all predictions; None without any."""
    ratios = [ratio for pair in pairs for ratio in _speed_ratios(pair)]
    if not ratios:
        return None
    errors = sorted(abs(ratio - 1) for ratio in ratios)
    shortfalls = sorted(max(0.0, 1 - ratio) for ratio in ratios)
    return PairErrors(
        median=_quantile(errors, 0.5),
        worst=errors[-1],
        p90=_quantile(errors, 0.9),
        shortfall_p90=_quantile(shortfalls, 0.9),
        count=len(ratios),
    )


def _speed_ratios(pair: PairRun) -> Iterable[float]:
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


def pair_derate(pairs: Sequence[PairRun]) -> float:
    """Return the share of the predicted rate that plans subtract for wrong pair predictions.

    The share is 0 while the 90th percentile of the errors is within `DERATE_FROM`; then it is that
    of the errors on the harmful side, at most 0.9: a plan with less speed is useless.
    """
    errors = pair_errors(pairs)
    if errors is None or errors.p90 <= DERATE_FROM:
        return 0.0
    return min(0.9, errors.shortfall_p90)
