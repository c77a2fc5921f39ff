import asyncio
import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.edge.data_protocol import DataProtocol
from partitiond.proxy.edge.exchange import Exchange
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.keys.accounts import Accounts, Receipt
from partitiond.proxy.peers.tls import PeerTls
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.proxy.telemetry.logs import LogFile
from tests.machine import until
from tests.proxy.scraped import parse_samples
from tests.proxy.scripted import Script, ScriptedEngine, running, well_behaved
from tests.proxy.virtual import end_clients, pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: Unix socket paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def replica(
    engine: ScriptedEngine | Path, replica_id: str = "m-1", model: str = "m", **changes: Any
) -> ReplicaRoute:
    path = engine.path if isinstance(engine, ScriptedEngine) else engine
    values: dict[str, Any] = {
        "replica_id": replica_id,
        "model": model,
        "socket_path": str(path),
        "generation": "1-1",
        "max_sequences": 8,
        "kv_cache_tokens": 0,
        "max_model_len": 1024,
    }
    return ReplicaRoute(**{**values, **changes})


def table(
    *replicas: ReplicaRoute,
    version: int = 1,
    keys: tuple[KeyRoute, ...] = (),
    keys_required: bool = False,
    availability: ModelAvailability = ModelAvailability.SERVING,
    models: tuple[str, ...] = ("m",),
    **route: Any,
) -> RoutingTable:
    values = {"served_name": "m", "created_at": 1700000000, **route}
    return RoutingTable(
        version,
        tuple(ModelRoute(name=name, availability=availability, **values) for name in models),
        replicas,
        keys,
        keys_required,
    )


def key(name: str = "k1", **more: Any) -> KeyRoute:
    """A key whose secret is its name."""
    return KeyRoute(name, hashlib.sha256(name.encode()).hexdigest(), **more)


def post(
    body: bytes | dict[str, Any], path: str = "/v1/completions", *, key: str = "none"
) -> bytes:
    """A request as its bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def begun(
    accounts: Accounts, key_id: str, tokens: float, service_seconds: float = 1.0
) -> Receipt | Rejected:
    """Begin a request, and reserve its tokens; one that gets none ends at once."""
    receipt = accounts.begin(key_id)
    if isinstance(receipt, Rejected):
        return receipt
    refused = accounts.reserve(receipt, tokens, service_seconds)
    if refused is None:
        return receipt
    accounts.settle(receipt, 0.0)
    return refused


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer; the code is empty where there is no error."""
    code = "" if response.status_code == 200 else str(response.json()["error"]["code"])
    return response.status_code, code


@dataclasses.dataclass
class Proxy:
    """A proxy in this event loop, with the state at hand."""

    state: ProxyState
    port: int
    log: LogFile
    log_lines: list[str]
    elsewhere: ProxyState | None = None
    """The proxy that has the replicas, if that is another host's."""

    @property
    def owner(self) -> ProxyState:
        """The state of the proxy that has the replicas."""
        return self.elsewhere or self.state

    def connections(self) -> int:
        """Open connections of clients."""
        return len(self.state.connections)

    def lanes(self) -> list[DataProtocol]:
        """The same, as the lane sees them."""
        return [one for one in self.state.connections if isinstance(one, DataProtocol)]

    def exchanges(self) -> list[Exchange]:
        """Requests in flight."""
        return [one for one in self.state.exchanges if isinstance(one, Exchange)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> httpx.AsyncClient:
        # Without TLS to verify: loading certificates takes longer than a test.
        return httpx.AsyncClient(base_url=self.url, timeout=900, verify=False)

    def openai(self, key: str = "none") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        )

    async def complete(
        self, path: str = "/v1/completions", *, key: str = "", headers: Any = None, **body: Any
    ) -> httpx.Response:
        sent = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        async with self.client as client:
            asked = {"model": "m", "prompt": "hi", **body}
            return await client.post(path, json=asked, headers=sent)

    def ask(self, **body: Any) -> asyncio.Task[httpx.Response]:
        """A request that runs beside the test."""
        return asyncio.create_task(self.complete(**body))

    def metric(self, name: str, **labels: str) -> float:
        """A sample of its metrics; 0 if there is none."""
        pairs = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        told = parse_samples(self.state.metrics.text().decode())
        return told.get(f"{name}{{{pairs}}}" if pairs else name, 0.0)

    def records(self, event: str = "request") -> list[dict[str, Any]]:
        """Lines of its log about an event."""
        lines = [json.loads(line) for line in self.log_lines]
        return [line for line in lines if line["event"] == event]

    async def queued(self, count: int) -> None:
        """Wait until so many requests wait for a place."""
        await self.until(lambda: self.owner.queues() == {"m": count})

    async def stream_text(self, **body: Any) -> str:
        """The whole text of a streamed completion, as it came."""
        return (await self.complete(stream=True, **body)).text

    def idle(self) -> bool:
        """Whether nothing at all is counted as in flight or waiting."""
        return (
            not self.state.exchanges
            and not any(self.state.in_flight().values())
            and not any(self.state.queues().values())
            and all(r.sequences == 0 and r.kv_tokens == 0 for r in self.state.replicas())
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition)


class ListLog(LogFile):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__(None, max_bytes=1, backups=0)
        self.kept: list[str] = []

    def write(self, line: str) -> None:
        self.kept.append(line)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, options: ProxyOptions, tls: PeerTls | None = None
) -> AsyncIterator[Proxy]:
    log = ListLog()
    state = ProxyState(options, folder / "state", log, tls=tls)
    server = await asyncio.get_running_loop().create_server(
        lambda: cast("asyncio.Protocol", DataProtocol(state)), "127.0.0.1", 0
    )
    proxy = Proxy(state, server.sockets[0].getsockname()[1], log, log.kept)
    try:
        yield proxy
    finally:
        end_clients()
        server.close()
        for connection in proxy.lanes():
            connection.transport.abort()
        state.close()


MakeProxy = Callable[..., Awaitable[Proxy]]
MakeEngine = Callable[..., Awaitable[ScriptedEngine]]
MakeProcess = Callable[..., ProxyProcess]


@pytest.fixture
async def make_proxy(folder: Path) -> AsyncIterator[MakeProxy]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(routes: RoutingTable | None = None, **options: Any) -> Proxy:
            proxy = await stack.enter_async_context(serving(folder, ProxyOptions(**options)))
            if routes is not None:
                proxy.state.apply(routes)
            return proxy

        yield make


@pytest.fixture
async def make_engine(folder: Path) -> AsyncIterator[MakeEngine]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(script: Script = well_behaved, name: str = "e1") -> ScriptedEngine:
            return await stack.enter_async_context(running(folder / f"{name}.sock", script))

        yield make


@pytest.fixture
async def make_process(folder: Path) -> AsyncIterator[MakeProcess]:
    """Make proxies that are processes of their own."""
    made: list[ProxyProcess] = []

    def make(name: str = "s", port: int = 0, **options: Any) -> ProxyProcess:
        process = ProxyProcess(
            host="127.0.0.1",
            port=port,
            state_dir=folder / name,
            control_socket=folder / name / "run" / "proxy.sock",
            options=ProxyOptions(**options),
        )
        made.append(process)
        (folder / name).mkdir(exist_ok=True)
        return process

    yield make
    for process in made:
        await process.stop(0)


@dataclasses.dataclass(frozen=True)
class Make:
    """Makes engines and proxies, which are ended with the test."""

    engine: MakeEngine
    proxy: MakeProxy

    async def both(
        self,
        script: Script = well_behaved,
        *,
        at: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Proxy, ScriptedEngine]:
        """Make a proxy and the engine of its model's only replica.

        Args:
            at: more of the replica.
            route: more of the table.
            options: of the proxy.
        """
        engine = await self.engine(script)
        routes = table(replica(engine, **(at or {})), **(route or {}))
        return await self.proxy(routes, **options), engine


@pytest.fixture
def make(make_engine: MakeEngine, make_proxy: MakeProxy) -> Make:
    return Make(make_engine, make_proxy)
