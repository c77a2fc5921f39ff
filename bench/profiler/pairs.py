"""Compares predicted and measured rates of two models side by side, one core each.

    python -m bench.profiler.pairs [--first smollm2-135m] [--second opt-125m] [--batch 8]
        [--rounds 6] [--seconds 30] [--folder .bench] [--set engine.python=...]

First, one of two equal replicas alone, compared with both, gives u and kappa of each model. From
these and the windows of each model alone the pair is predicted. The baseline is the prediction that
sharing costs nothing (each model as fast as alone); both predictions are shown with their errors.
"""

import asyncio
import dataclasses
import sys
from collections.abc import Sequence

from bench.profiler.side_by_side import (
    begin,
    bench_of,
    cpu_of,
    memory_of,
    models_of,
    options_parser,
    settings_of,
    tell,
    window_plan,
)
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.performance.interference import pair_errors
from partitiond.core.profile.sharing import PairRun
from partitiond.profiler.pairs.arrangement import DeviceShare, Replica
from partitiond.profiler.pairs.pairs import BusyAndKappa, measure_pair
from partitiond.profiler.pairs.replication import EvenSplit, replicate
from partitiond.profiler.pairs.side_by_side import WindowPlan
from partitiond.profiler.sweep.bench import Bench


async def sharing_of(
    bench: Bench, model: ResolvedModel, batch: int, plan: WindowPlan
) -> BusyAndKappa:
    """u and kappa of a model on one core, from two replicas of it."""
    split = EvenSplit(
        SharingMode.CORES, bench.device.cores[:2], memory_of(bench.device), lambda _: batch
    )
    found = await replicate(bench, model, split, counts=(2,), plan=plan, tell=tell)
    ((_, sharing),) = found.sharing
    print(f"{model.spec.name}: u {sharing.busy:.3f}, kappa {sharing.kappa:.3f}")
    return sharing.busy, sharing.kappa


def pair_of(device: Device, models: Sequence[ResolvedModel], batch: int) -> tuple[Replica, Replica]:
    half = memory_of(device) // 2
    first, second = (
        Replica(model, DeviceShare((core,), half, batch))
        for model, core in zip(models, device.cores, strict=False)
    )
    return first, second


def report(run: PairRun) -> None:
    for i, model in enumerate(run.models):
        alone, predicted = run.alone_output_tokens_per_s[i], run.predicted_output_tokens_per_s[i]
        measured = run.measured_output_tokens_per_s[i]
        print(
            f"{model:<16} alone {alone:7.1f}  predicted {predicted:7.1f}  measured "
            f"{measured:7.1f} ± {run.half_widths[i]:.1f} tok/s (off by "
            f"{measured / predicted - 1:+.1%}; without a model of sharing "
            f"{measured / alone - 1:+.1%}), TPOT p95 predicted "
            f"{run.predicted_tpot_p95_seconds[i] * 1000:.1f} ms, measured "
            f"{run.measured_tpot_p95_seconds[i] * 1000:.1f} ms"
        )
    naive = dataclasses.replace(run, predicted_output_tokens_per_s=run.alone_output_tokens_per_s)
    ours, without = pair_errors([run]), pair_errors([naive])
    assert ours is not None
    assert without is not None
    print(f"errors: median {ours.median:.1%}, worst {ours.worst:.1%}")
    print(
        f"rates as if sharing cost nothing: median {without.median:.1%}, worst {without.worst:.1%}"
    )


async def run() -> None:
    parser = options_parser(__doc__ or "", rounds=6, seconds=30.0)
    parser.add_argument("--first", default="smollm2-135m", help="catalog name or folder")
    parser.add_argument("--second", default="opt-125m", help="catalog name or folder")
    parser.add_argument("--first-weights", default="real", choices=("real", "dummy"))
    parser.add_argument("--second-weights", default="dummy", choices=("real", "dummy"))
    parser.add_argument("--batch", type=int, default=8, help="in flight at each of the two")
    given = parser.parse_args()
    settings = settings_of(given)
    await begin()
    device = cpu_of(settings)
    if len(device.cores) < 2:
        sys.exit(f"this needs two cores; {device.id} has fewer")
    wanted = [(given.first, given.first_weights), (given.second, given.second_weights)]
    models = await models_of(settings, given, wanted)
    bench, plan = bench_of(settings, device), window_plan(given)
    one, other = [await sharing_of(bench, model, given.batch, plan) for model in models]
    pair = pair_of(device, models, given.batch)
    report(await measure_pair(bench, SharingMode.CORES, pair, (one, other), plan=plan, tell=tell))


if __name__ == "__main__":
    asyncio.run(run())
