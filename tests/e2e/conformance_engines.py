"""Runs engines and proxies for the conformance tests, each while a `with` block runs."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.proxy.supervisor import ProxyProcess
from tests.controller.samples import placement
from tests.e2e.conformance_client import ask
from tests.engine_fixtures import make_runner, vllm_launch
from tests.machine import SLOWEST, wait_for
from tests.proxy.conftest import replica, table

MAX_MODEL_LEN: Final = 512
START_SECONDS: Final = 480.0


@contextlib.contextmanager
def simulated(folder: Path, name: str, *flags: str) -> Iterator[Path]:
    """A simulated engine on a socket."""
    path = folder / f"{name}.sock"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "partitiond.simulated.engine", "--uds", str(path)),
            *("--model", name, "--max-model-len", str(MAX_MODEL_LEN)),
            *("--token-seconds", "0.001", *flags),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(path, process)
        yield path
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(path: Path, process: "subprocess.Popen[bytes]") -> None:
    def healthy() -> bool:
        assert process.poll() is None, "the engine ended"
        with contextlib.suppress(OSError):
            return ask(path, "/health", method="GET").status == 200
        return False

    wait_for("the engine to come up", healthy, seconds=START_SECONDS / SLOWEST)


@contextlib.contextmanager
def real_generating(
    environment: EngineEnvironment, model: Path, name: str = "tiny", *flags: str
) -> Iterator[Path]:
    """vLLM with SmolLM2 under a name, as the daemon starts it."""
    run_dir = Path(tempfile.mkdtemp(prefix="pd-"))
    runner = make_runner(run_dir, environment, forks=True)
    launch = replace(
        vllm_launch(model), model_name=name, placement=placement("real-0"), extra_args=flags
    )
    handle = asyncio.run(runner.start(launch))
    try:
        asyncio.run(runner.wait_ready(handle, START_SECONDS))
        yield Path(handle.socket_path)
    finally:
        asyncio.run(runner.stop(handle, 5.0))
        shutil.rmtree(run_dir)


@contextlib.contextmanager
def proxy_for(routes: RoutingTable) -> Iterator[ProxyProcess]:
    """A proxy process that has this table."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    proxy = ProxyProcess(
        host="127.0.0.1", port=0, state_dir=folder, control_socket=folder / "run" / "p.sock"
    )

    async def begin() -> None:
        await proxy.ensure_running()
        await proxy.publish(routes)

    try:
        asyncio.run(begin())
        yield proxy
    finally:
        asyncio.run(proxy.stop(0))
        shutil.rmtree(folder)


def serving(name: str, engine: Path, **route: Any) -> RoutingTable:
    """A table of one model, which this engine serves."""
    served = replica(engine, f"{name}-0", name, max_sequences=16, max_model_len=MAX_MODEL_LEN)
    return table(served, models=(name,), served_name=name, **route)
