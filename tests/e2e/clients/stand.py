"""Runs the stand that clients are tried against: a proxy before engines, with keys required."""

import asyncio
import dataclasses
import hashlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.proxy.supervisor import ProxyProcess
from tests.engine_fixtures import make_runner, vllm_launch

KEY = "sk-of-the-clients-tests"
MODEL = "smollm2-135m"
"""Named as in the docs, so that their recipes run as they are."""
NARROW = "narrow"
"""One request at a time, and nobody may wait: a second one gets 429."""
EMBEDDER = "embedder"
ALIAS = "gpt-4o-mini"
MAX_MODEL_LEN = 65_536
START_SECONDS = 480.0
REAL_START_SECONDS = 480.0


@dataclasses.dataclass
class Stand:
    """The proxy, where clients reach it.

    Attributes:
        url: without `/v1`.
    """

    url: str
    proxy: ProxyProcess

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts of the clients read."""
        names = {"MODEL": MODEL, "NARROW": NARROW, "EMBEDDER": EMBEDDER, "ALIAS": ALIAS}
        return {"BASE_URL": f"{self.url}/v1", "API_KEY": KEY, **names}

    def in_flight(self) -> int:
        return sum((asyncio.run(self.proxy.in_flight()) or {}).values())


@contextmanager
def simulated_stand() -> Iterator[Stand]:
    """Two replicas of one model, a narrow one, and one for embeddings."""
    with _short_folder() as folder:
        named = ((MODEL, 0), (MODEL, 1), (NARROW, 0), (EMBEDDER, 0))
        replicas = tuple(_replica(folder, model, number) for model, number in named)
        engines = [_start_engine(replica) for replica in replicas]
        try:
            for replica, engine in zip(replicas, engines, strict=True):
                _wait_until_it_listens(replica.socket_path, engine)
            with _proxy_before(replicas, folder) as found:
                yield found
        finally:
            for engine in engines:
                engine.kill()
                engine.wait()


@contextmanager
def real_stand(environment: EngineEnvironment, model_folder: Path) -> Iterator[Stand]:
    """One replica of the real engine."""
    launch = dataclasses.replace(vllm_launch(model_folder), model_name=MODEL)
    with _short_folder() as folder:
        runner = make_runner(folder / "e", environment)

        async def start() -> EngineHandle:
            handle = await runner.start(launch)
            try:
                await runner.wait_ready(handle, REAL_START_SECONDS)
            except BaseException:
                await runner.stop(handle, 0.0)
                raise
            return handle

        handle = asyncio.run(start())
        try:
            route = _replica(folder, MODEL, 0)
            route = dataclasses.replace(
                route, socket_path=handle.socket_path, max_model_len=launch.max_model_len
            )
            with _proxy_before((route,), folder) as found:
                yield found
        finally:
            asyncio.run(runner.stop(handle, 5.0))


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Short, because paths of Unix sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _proxy_before(replicas: tuple[ReplicaRoute, ...], folder: Path) -> Iterator[Stand]:
    proxy = ProxyProcess(
        host="127.0.0.1", port=0, state_dir=folder / "p", control_socket=folder / "p" / "c.sock"
    )
    (folder / "p").mkdir()
    try:
        asyncio.run(proxy.ensure_running())
        asyncio.run(proxy.publish(table_of(replicas)))
        yield Stand(proxy.base_url, proxy)
    finally:
        asyncio.run(proxy.stop(0))


def table_of(replicas: tuple[ReplicaRoute, ...]) -> RoutingTable:
    """Routes to these replicas, for one key."""
    serving = ModelAvailability.SERVING
    models = (
        ModelRoute(MODEL, serving, served_name=MODEL, created_at=1_700_000_000, aliases=(ALIAS,)),
        ModelRoute(NARROW, serving, served_name=NARROW, created_at=1_700_000_000, max_queue=0),
        ModelRoute(EMBEDDER, serving, served_name=EMBEDDER, created_at=1_700_000_000),
    )
    named = {replica.model for replica in replicas}
    key = KeyRoute("key-1", hashlib.sha256(KEY.encode()).hexdigest())
    kept = tuple(model for model in models if model.name in named)
    return RoutingTable(1, kept, replicas, (key,), keys_required=True)


def _replica(folder: Path, model: str, number: int) -> ReplicaRoute:
    name = f"{model}-{number}"
    return ReplicaRoute(
        replica_id=name,
        model=model,
        socket_path=str(folder / f"{name}.sock"),
        generation="1-1",
        max_sequences=1 if model == NARROW else 16,
        kv_cache_tokens=0,
        max_model_len=MAX_MODEL_LEN,
    )


def _start_engine(replica: ReplicaRoute) -> "subprocess.Popen[bytes]":
    flags = ["--uds", replica.socket_path, "--model", replica.model, "--token-seconds", "0.005"]
    flags += ["--max-model-len", str(MAX_MODEL_LEN)]
    flags += ["--task", "pooling" if replica.model == EMBEDDER else "generate"]
    return subprocess.Popen(
        [sys.executable, "-m", "partitiond.simulated.engine", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_until_it_listens(path: str, engine: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert engine.poll() is None, f"the simulated engine ended with {engine.returncode}"
        assert time.monotonic() < deadline, f"nothing listens on {path}"
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                time.sleep(0.02)
            else:
                return
