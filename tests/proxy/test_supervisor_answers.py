"""The daemon understands a proxy's answers, for every version of the proxy."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE
from partitiond.core.errors import PartitiondError
from partitiond.core.keys.record import KeyUse
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess


class Answers:
    """A control socket that says one thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {}
        self.error: bytes | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = "200 OK" if self.error is None else "500 Internal Server Error"
        body = json.dumps(self.state).encode() if self.error is None else self.error
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def answers(folder: Path) -> AsyncIterator[Answers]:
    made = Answers(folder / "c.sock")
    server = await asyncio.start_unix_server(made, made.path)
    async with server:
        yield made


def process(folder: Path, **options: Any) -> ProxyProcess:
    return ProxyProcess(
        host="127.0.0.1",
        port=8000,
        state_dir=folder,
        control_socket=folder / "c.sock",
        options=ProxyOptions(**options),
    )


async def test_the_use_of_keys_is_read_where_the_proxy_counts_it(
    answers: Answers, folder: Path
) -> None:
    use = {"requests": 3, "tokens": 120, "budget_used": 100, "in_flight": 1}
    answers.state = {"pid": 1, "keys": {"key-1": use}}
    assert await process(folder).key_use() == {"key-1": KeyUse(3, 120, 100, 1)}
    answers.state = {"pid": 1}
    assert await process(folder).key_use() is None, "a proxy of an older version"
    answers.state = {"pid": 1, "keys": {"key-1": {"spent": 1}}}
    assert await process(folder).key_use() is None, "a proxy of a newer version"


@pytest.mark.parametrize("told", [b"Internal Server Error", b"", b"[1]", b'{"message":"?"}'])
async def test_an_error_that_is_not_in_the_proxys_shape_is_told_as_it_is(
    answers: Answers, folder: Path, told: bytes
) -> None:
    answers.error = told
    with pytest.raises(PartitiondError, match="status 500") as raised:
        await process(folder).publish(EMPTY_ROUTING_TABLE)
    assert told.decode() in str(raised.value)
