"""Measures two models side by side, and predicts the same with the interference model.

Each model runs at its own operating point. Windows alternate between the first alone, the pair, and
the second alone, so that the prediction rests on singles of the same minutes as the pair: the
difference is the error of the model of sharing, not the drift of the machine.
"""

from collections.abc import Mapping, Sequence

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Single, predict_shared
from partitiond.core.profile.sharing import PairRun
from partitiond.profiler.pairs.arrangement import Arrangement, Replica
from partitiond.profiler.pairs.replication import mean_rates, p95, pool, root_sum
from partitiond.profiler.pairs.side_by_side import CommonWindow, Tell, WindowPlan, measure
from partitiond.profiler.sweep.bench import Bench

FIRST, BOTH, SECOND = "the first alone", "both", "the second alone"

BusyAndKappa = tuple[float, float | None]
"""u and kappa of a model in a mode, as its profile has them; kappa None for the mode's default."""


def pair_arrangements(mode: SharingMode, pair: tuple[Replica, Replica]) -> tuple[Arrangement, ...]:
    """Return the arrangements: the first alone, both, the second alone."""
    return (
        Arrangement(FIRST, mode, pair[:1]),
        Arrangement(BOTH, mode, pair),
        Arrangement(SECOND, mode, pair[1:]),
    )


def require_one_group(mode: SharingMode, pair: tuple[Replica, Replica]) -> None:
    """Refuse models under MPS that no MPS daemon serves together. Raises InputError."""
    first, second = (replica.model.spec for replica in pair)
    if mode is SharingMode.MPS and first.isolation_group != second.isolation_group:
        raise InputError(
            f"{first.name} and {second.name} are of different isolation groups, and an MPS daemon "
            "serves one group: they cannot be measured together under MPS.",
            hint="Measure them in another sharing mode: plans never put them under one MPS daemon.",
            facts={"models": [first.name, second.name]},
        )


async def measure_pair(
    bench: Bench,
    mode: SharingMode,
    pair: tuple[Replica, Replica],
    shared: tuple[BusyAndKappa, BusyAndKappa],
    *,
    plan: WindowPlan,
    tell: Tell,
) -> PairRun:
    """Predict from the singles, and measure side by side.

    Args:
        bench: runs the engines.
        mode: how the two share the device.
        pair: each model with its share and batch.
        shared: u and kappa of each model.
        plan: how long and how often.
        tell: called with progress.

    Raises:
        InputError: a share is too small for a request, or MPS cannot serve both models.
        EngineError: an engine did not start, died, or failed requests.
    """
    require_one_group(mode, pair)
    arrangements = pair_arrangements(mode, pair)
    return evaluate_pair(mode, pair, shared, await measure(bench, arrangements, plan, tell))


def evaluate_pair(
    mode: SharingMode,
    pair: Sequence[Replica],
    shared: Sequence[BusyAndKappa],
    windows: Mapping[str, tuple[CommonWindow, ...]],
) -> PairRun:
    """Compute the pair's run from its windows. Pure."""
    alone = [windows[FIRST], windows[SECOND]]
    singles = [
        Single(
            output_tokens_per_s=mean_rates(seen)[0],
            tpot_p95_seconds=p95(pool(seen)[0].tpot),
            busy=busy,
            kappa=kappa,
        )
        for seen, (busy, kappa) in zip(alone, shared, strict=True)
    ]
    predicted = predict_shared(mode, singles)
    both = windows[BOTH]
    rates, tpots = mean_rates(both), [p95(samples.tpot) for samples in pool(both)]
    widths = [_half_width_of_mean([w.half_widths[i] for w in both]) for i in range(2)]
    first, second = pair
    return PairRun(
        models=(first.model.spec.name, second.model.spec.name),
        mode=mode.value,
        cores_each=(len(first.share.cores), len(second.share.cores)),
        batches=(both[0].batches[0], both[0].batches[1]),
        alone_output_tokens_per_s=(singles[0].output_tokens_per_s, singles[1].output_tokens_per_s),
        predicted_output_tokens_per_s=_two(predicted.output_tokens_per_s),
        measured_output_tokens_per_s=_two(rates),
        half_widths=_two(widths),
        predicted_tpot_p95_seconds=_two(predicted.tpot_p95_seconds),
        measured_tpot_p95_seconds=_two(tpots),
        windows=len(both),
        instrument_cpu=max(w.instrument_cpu for seen in windows.values() for w in seen),
    )


def _two(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return first, second


def _half_width_of_mean(half_widths: Sequence[float]) -> float:
    return root_sum(half_widths) / len(half_widths)
