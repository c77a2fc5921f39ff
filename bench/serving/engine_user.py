"""Compares engines of a user of their own with engines of the daemon's user, alternating.

    PROGRAM=cost.py SECONDS_ALLOWED=1200 deploy/check/run-under-systemd.sh    # as root

Each side starts the same engine as the daemon does, waits until it serves, loads it by a closed
loop and ends it. Ours is started by systemd in the sandbox of `partitiond-engine@.service`, the
baseline by the daemon's user itself. `deploy/check/cost.py` installs the units and runs this as
the user `partitiond`; on a host where `partitiond setup` did that, run it so yourself:

    sudo -u partitiond python -m bench.serving.engine_user --engine PYTHON --model FOLDER
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.command import options
from bench.paired import alternate, compare
from loadgen import Workload, closed_loop, fixed
from loadgen.results.statistics import summarise
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB, MIB
from partitiond.devices.cpu import native_dtype
from partitiond.engines.install.environment import find_environment
from partitiond.engines.process.engine_user import EngineUser
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.settings.schema import Settings

UNITS = {"start": "s", "stop": "s", "throughput": "tok/s", "ttft_p50": "s"}
NAME = "tiny"
IN_FLIGHT = 8
START_SECONDS = 300


def launch_of(folder: str, dtype: str, side: str) -> EngineLaunch:
    """One engine on all cores but the last, which is the load's."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return EngineLaunch(
        replica_id=f"{side}-engine",
        model_name=NAME,
        model_folder=folder,
        placement=None,
        device_id="cpu",
        visible_device="",
        cores=cores[:-1] or cores,
        memory_bytes=4 * GIB,
        device_memory_bytes=16 * GIB,
        kv_cache_bytes=256 * MIB,
        max_num_seqs=IN_FLIGHT,
        max_num_batched_tokens=1024,
        max_model_len=512,
        dtype=dtype,
        dummy_weights=False,
    )


async def life(
    runner: ProcessEngineRunner, launch: EngineLaunch, seconds: float, seed: int
) -> dict[str, float]:
    """Start an engine, load it, end it."""
    began = time.monotonic()
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, START_SECONDS)
        started = time.monotonic() - began
        load = Workload(NAME, 64, 32, seed=seed)
        result = await closed_loop(
            f"unix:{handle.socket_path}",
            load,
            concurrency=IN_FLIGHT,
            window=fixed(seconds),
        )
    finally:
        ending = time.monotonic()
        await runner.stop(handle, 10)
    ttft = summarise(result.samples.ttft)
    return {
        "start": started,
        "stop": time.monotonic() - ending,
        "throughput": result.throughput.output_tokens_per_s,
        "ttft_p50": ttft.p50 if ttft else float("nan"),
    }


async def measure(python: Path, folder: str, pairs: int, seconds: float) -> None:
    settings = Settings()
    environment = find_environment(python, settings.engines_dir, "cpu")
    user = EngineUser(
        settings.engine.launcher or Path("/run/partitiond-engine.sock"),
        settings.engine.launcher_cache,
        settings.models_dir,
    )
    with tempfile.TemporaryDirectory(prefix="pd-", dir="/run/partitiond") as run_dir:
        sides = {
            side: ProcessEngineRunner(
                Path(run_dir, side),
                environment,
                cache_dir=settings.cache_dir / "compiled",
                user=owner,
            )
            for side, owner in (("ours", user), ("before", None))
        }

        async def one(side: str, seed: int) -> dict[str, float]:
            return await life(sides[side], launch_of(folder, native_dtype(), side), seconds, seed)

        for side in sides:  # what is compiled and cached at the first start is not compared
            print(f"first start, {side}: {(await one(side, 0))['start']:.1f} s", flush=True)
        ours, before = await alternate(
            pairs,
            lambda i: one("ours", i),
            lambda i: one("before", i),
            lambda text: print(text, flush=True),
        )
    print(f"{'':<34} {'ours':>9} {'before':>9}")
    for comparison in compare(ours, before, UNITS):
        print(comparison.line())


def main() -> int:
    given = options(__doc__, engine="", model="", pairs=4, seconds=15.0).parse_args()
    asyncio.run(measure(Path(given.engine), given.model, given.pairs, given.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
