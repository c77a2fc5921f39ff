"""Fits kappa and u of shared devices to replication runs, and predicts pairs from singles."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import ProfileError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import DEFAULT, sigma
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.sharing import ReplicationRun, Sharing


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
