"""Compares one engine on two cores with two on one core each, in alternating windows.

    python -m bench.profiler.replication [--model smollm2-135m] [--weights real] [--batch 8]
        [--rounds 6] [--seconds 30] [--folder .bench] [--set engine.python=...]

All engines are up at once and only the side being measured is under load; the same number of
requests is in flight on both sides. The bench prints the ratio of the sums, the interval of the
paired difference (an interval that holds zero shows no gain), the worst latencies, and the cost of
sharing: one of the two alone, compared with both, as kappa and u.
"""

import asyncio
import sys

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
from partitiond.core.hardware.kinds import SharingMode
from partitiond.profiler.pairs.replication import EvenSplit, ReplicationMeasurement, replicate

REPLICAS = 2


def report(found: ReplicationMeasurement) -> None:
    for name, run in found.runs:
        each = " + ".join(f"{rate:.1f}" for rate in run.output_tokens_per_s)
        print(
            f"{name:<44} batch {run.batch_each:<4} {run.total_output_tokens_per_s:8.1f} tok/s "
            f"± {run.half_width:.1f} ({each}), TPOT p95 {run.tpot_p95_seconds * 1000:.1f} ms, "
            f"TTFT p95 {run.ttft_p95_seconds:.2f} s"
        )
    for d in found.differences:
        verdict = "shown" if d.shown else "not shown: the interval holds 0"
        print(
            f"\n{d.name} / {d.baseline}: ratio {d.ratio:.3f}, difference {d.difference:+.1f} "
            f"± {d.half_width:.1f} tok/s ({verdict})"
        )
    for cores, sharing in found.sharing:
        print(f"sharing, {cores} core(s) each: u {sharing.busy:.3f}, kappa {sharing.kappa:.3f}")
    if found.idle_cores is not None:
        print(f"engines without load took up to {found.idle_cores:.4f} of a core")
    for note in found.notes:
        print(f"note: {note}")


async def run() -> None:
    parser = options_parser(__doc__ or "", rounds=6, seconds=30.0)
    parser.add_argument("--model", default="smollm2-135m", help="catalog name or folder")
    parser.add_argument("--weights", default="real", choices=("real", "dummy"))
    parser.add_argument("--batch", type=int, default=8, help="in flight at each of the two")
    parser.add_argument("--cores", type=int, default=2, help="of all replicas together")
    given = parser.parse_args()
    settings = settings_of(given)
    await begin()
    device = cpu_of(settings)
    if len(device.cores) < max(REPLICAS, given.cores):
        sys.exit(f"this needs {max(REPLICAS, given.cores)} cores; {device.id} has fewer")
    (model,) = await models_of(settings, given, [(given.model, given.weights)])
    split = EvenSplit(
        mode=SharingMode.CORES,
        cores=device.cores[: given.cores],
        memory_bytes=memory_of(device),
        batch_of=lambda count: given.batch * REPLICAS // count,
    )
    found = await replicate(
        bench_of(settings, device),
        model,
        split,
        counts=(1, REPLICAS),
        plan=window_plan(given),
        tell=tell,
    )
    report(found)


if __name__ == "__main__":
    asyncio.run(run())
