"""What the daemon makes of a proxy's answers, whatever its version."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.keys import KeyUse
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess


class Answers:
    """A control socket that says one thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(self.state).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
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


async def test_without_a_proxy_nothing_is_said_of_keys(folder: Path) -> None:
    assert await process(folder).key_use() is None


def test_the_address_is_https_with_a_certificate(tmp_path: Path) -> None:
    assert process(tmp_path).base_url == "http://127.0.0.1:8000"
    tls = process(tmp_path, tls_certificate="/c.pem", tls_key="/k.pem")
    assert tls.base_url == "https://127.0.0.1:8000"
