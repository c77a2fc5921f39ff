"""Compares the plan with one default engine on the same cores, alternating, with intervals.

    python -m bench.serving.plan [--pairs 6] [--seconds 20] [--folder .bench]

Ours: the planner's plan for SmolLM2-135M on this machine's cores with goodput as the objective
(each replica at its measured knee), behind the proxy. Baseline: one vLLM engine with its own
defaults (256 sequences) on all those cores, called directly. Both stay up and only one is loaded at
a time, by a closed loop with as many requests in flight as the sum of the plan's limits. The KV
cache of the default engine is set to 1 GiB: by default it would take most of the memory.
"""

import argparse
import asyncio
import math
import sys
from pathlib import Path

from bench.paired import alternate, compare
from bench.serving.demo_fleet import demo_fleet, options_parser
from examples.demo import steps as demo_steps
from loadgen import Workload, closed_loop, fixed
from loadgen.results.statistics import summarise
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Objective, Plan
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings

UNITS = {"throughput": "tok/s", "ttft_p95": "s", "tpot_p95": "s"}
DEFAULT_MAX_NUM_SEQS = 256
DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048


def default_launch(model: str, folder: Path, settings: Settings) -> EngineLaunch:
    cores = tuple(settings.cpu.cores or ())
    return EngineLaunch(
        replica_id="default-engine",
        model_name=model,
        model_folder=str(folder),
        placement=None,
        device_id="cpu",
        visible_device="",
        cores=cores,
        memory_bytes=6 * GIB,
        device_memory_bytes=16 * GIB,
        kv_cache_bytes=GIB,
        max_num_seqs=DEFAULT_MAX_NUM_SEQS,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
        max_model_len=1024,
        dtype="bfloat16",
        dummy_weights=False,
    )


async def window(
    target: str, spec: ModelSpec, slots: int, seconds: float, seed: int
) -> dict[str, float]:
    load = Workload(spec.name, spec.workload.prompt_tokens, spec.workload.output_tokens, seed=seed)
    result = await closed_loop(target, load, concurrency=slots, window=fixed(seconds))
    ttft, tpot = summarise(result.samples.ttft), summarise(result.samples.tpot)
    return {
        "throughput": result.throughput.output_tokens_per_s,
        "ttft_p95": ttft.p95 if ttft else math.nan,
        "tpot_p95": tpot.p95 if tpot else math.nan,
    }


async def measure(
    settings: Settings,
    environment: EngineEnvironment,
    spec: ModelSpec,
    plan: Plan,
    given: argparse.Namespace,
) -> None:
    slots = sum(p.candidate.batch for p in plan.placements)
    folder = (await Resolver(settings.models_dir, environment.python).resolve(spec)).folder
    runner = ProcessEngineRunner(
        settings.run_dir / "bench", environment, cache_dir=settings.cache_dir
    )
    handle = await runner.start(default_launch(spec.name, folder, settings))
    try:
        await runner.wait_ready(handle, 300)
        ours, baseline = await alternate(
            given.pairs,
            lambda i: window(settings.proxy_url, spec, slots, given.seconds, i),
            lambda i: window(f"unix:{handle.socket_path}", spec, slots, given.seconds, i),
            print,
        )
    finally:
        await runner.stop(handle, 5)
    print(f"\n{slots} requests in flight; plan: " + describe(plan))
    print(f"{'':<34} {'plan':>9} {'default':>9}")
    for comparison in compare(ours, baseline, UNITS):
        print(comparison.line())


def describe(plan: Plan) -> str:
    return ", ".join(f"{p.candidate.size.key} batch {p.candidate.batch}" for p in plan.placements)


def main() -> int:
    given = options_parser(__doc__, pairs=6, seconds=20.0, folder=".bench").parse_args()
    with demo_fleet(given, models=1) as fleet:
        (spec,) = fleet.specs
        fleet.client.register(spec)
        for cores in sorted({1, len(fleet.settings.cpu.cores or ())}):
            fleet.measure(spec, cores)  # on one core and on all, so that the planner can choose
        plan = fleet.client.plan(Objective.MAX_GOODPUT).plan
        demo_steps.apply(fleet.story, fleet.client, plan)
        asyncio.run(measure(fleet.settings, fleet.environment, spec, plan, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
