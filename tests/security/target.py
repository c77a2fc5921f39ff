"""A proxy to attack, and the engine behind it, which reads as strictly as HTTP allows.

A proxy that lets a smuggled request through is caught here: everything except exactly one
well-formed request with the headers that an engine needs is a violation.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    RoutingTable,
)
from partitiond.proxy.config import ProxyOptions
from tests.proxy.conftest import Proxy, replica, serving
from tests.proxy.scripted import Received, ScriptedEngine, well_behaved
from tests.proxy.virtual import settled

KEY = "sk-good"
OTHER_MODEL = "other"
ALLOWED_HEADERS = frozenset(
    {
        "host", "content-type", "content-length", "connection", "accept", "x-request-id",
        "traceparent", "tracestate",
    }
)  # fmt: skip
"""What may go on to an engine: nothing that names the client, its key or another hop."""
PATHS = re.compile(
    rb"/(v1/(completions|chat/completions|chat/completions/batch|responses|messages|messages/count_tokens|embeddings"
    rb"|score|rerank)|v2/rerank|score|rerank|pooling|classify|tokenize|detokenize)"
)
HEADER = re.compile(rb"([a-z0-9-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")


class StrictEngine(ScriptedEngine):
    """Keeps the well-formed requests in `received`, and in `violations` what is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.violations: list[str] = []

    def forget(self) -> None:
        """Begin anew: nothing was seen."""
        self.received.clear()
        self.violations.clear()
        self.script = well_behaved

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        try:
            while request := await _next(reader, number):
                self.received.append(request)
                if not await self._play(self.script(request), reader, writer):
                    return
        except ValueError as error:
            self.violations.append(str(error))


async def _next(reader: asyncio.StreamReader, number: int) -> Received | None:
    """The next request, None at a clean end. Raises ValueError for what is not one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        path, headers = _read_head(head[:-4])
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
    except asyncio.IncompleteReadError as cut:
        if cut.partial or cut.expected:
            raise ValueError(f"cut: {cut.partial[:200]!r}") from None
        return None
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return Received(path, headers, body, number)


def _read_head(head: bytes) -> tuple[str, dict[str, str]]:
    lines = head.split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if method != b"POST" or version != b"HTTP/1.1" or not PATHS.fullmatch(target):
        raise ValueError(f"request line {lines[0]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        match = HEADER.fullmatch(line)
        if match is None:
            raise ValueError(f"header {line!r}")
        name = match[1].decode()
        if name in headers or name not in ALLOWED_HEADERS:
            raise ValueError(f"header that must not be there (twice): {line!r}")
        headers[name] = match[2].decode()
    if not headers.get("content-length", "").isdigit():
        raise ValueError(f"no length in {head!r}")
    return target.decode(), headers


def key(secret: str, key_id: str = "k", **changes: Any) -> KeyRoute:
    """A key as the proxy is told of it."""
    return KeyRoute(id=key_id, sha256=hashlib.sha256(secret.encode()).hexdigest(), **changes)


def table(
    engine: Path,
    keys: Sequence[KeyRoute],
    *,
    version: int = 1,
    keys_required: bool = True,
    models: Sequence[ModelRoute] = (),
    generation: str = "1-1",
) -> RoutingTable:
    """A table with the models `m` and `other`, both at this engine.

    Another generation is another engine process: what was held against the former is over.
    """
    routes = models or [model("m"), model(OTHER_MODEL)]
    at = {"generation": generation, "max_sequences": 64, "max_model_len": 4096}
    replicas = [replica(engine, f"{route.name}-1", route.name, **at) for route in routes]
    return RoutingTable(version, tuple(routes), tuple(replicas), tuple(keys), keys_required)


def model(name: str) -> ModelRoute:
    """A model that serves."""
    return ModelRoute(name, ModelAvailability.SERVING, served_name="m", created_at=1_700_000_000)


@dataclasses.dataclass
class Target:
    """A proxy in this event loop."""

    proxy: Proxy
    engine: StrictEngine
    folder: Path
    version: int = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.proxy.port

    @property
    def log(self) -> str:
        """Its log, so far."""
        return "".join(f"{line}\n" for line in self.proxy.log_lines)

    def publish(self, keys: Sequence[KeyRoute] = (), **more: Any) -> None:
        """Give it a table, see `table`."""
        self.version += 1
        routes = table(self.engine.path, keys, version=self.version, **more)
        assert self.proxy.state.apply(routes)

    async def forget(self) -> None:
        """Let all that is under way end, and begin anew: it would be counted to what follows."""
        await settled()
        self.engine.forget()


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Target]:
    """A proxy with an engine behind it, and no table yet; none of its own bugs was met."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        folder = Path(name)
        engine = StrictEngine(folder / "e.sock")
        await engine.start()
        try:
            async with serving(folder, ProxyOptions(**options)) as proxy:
                target = Target(proxy, engine, folder)
                yield target
            at = target.log.find('"trace"')
            assert at < 0, target.log[max(0, at - 500) :][:3000]
        finally:
            await engine.stop()
