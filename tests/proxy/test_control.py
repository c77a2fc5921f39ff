"""The control listener answers each request once, wrong ones too, and ends with the last answer."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.control import LAST_ANSWERS_SECONDS, ControlServer
from partitiond.serde import to_json
from tests.proxy.conftest import table
from tests.proxy.virtual import RawClient, end_clients, running_loop, settled


class ScriptedPlane:
    """A plane that can wait and fail."""

    version = 7

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.done: list[Any] = []

    async def apply(self, table: RoutingTable) -> bool:
        self.done.append(table)
        if len(self.done) > 1:
            raise OSError("no room")
        return True

    async def describe(self) -> dict[str, Any]:
        await self.go.wait()
        return {"version": self.version}

    async def metrics(self) -> bytes:
        return b"x 1\n"

    async def traffic(self) -> dict[str, Any]:
        raise RuntimeError("a bug")

    def shut_down(self, grace_seconds: float) -> None:
        self.done.append(grace_seconds)


class Control:
    """A control listener, and the plane behind it."""

    def __init__(self, plane: ScriptedPlane, server: ControlServer, path: Path) -> None:
        self.plane = plane
        self.server = server
        self.path = path

    async def silent(self) -> RawClient:
        client = RawClient(*await asyncio.open_unix_connection(self.path))
        running_loop().clients.append(client)
        return client

    async def client(self, line: str, body: bytes = b"") -> RawClient:
        client = await self.silent()
        head = f"{line} HTTP/1.1\r\nhost: proxy\r\ncontent-length: {len(body)}\r\n\r\n"
        client.send(head.encode() + body)
        return client

    async def ask(self, line: str, body: bytes = b"") -> tuple[int, bytes]:
        head, _, told = (await (await self.client(line, body)).rest()).partition(b"\r\n\r\n")
        assert f"content-length: {len(told)}".encode() in head
        return int(head[9:12]), told


@pytest.fixture
async def control(folder: Path) -> AsyncIterator[Control]:
    plane = ScriptedPlane()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "c.sock"))
    server = await ControlServer.start(plane, listener)
    yield Control(plane, server, folder / "c.sock")
    end_clients()
    await server.close()


async def test_each_request_gets_what_the_plane_says_or_why_not(control: Control) -> None:
    routes = to_json(table()).encode()
    for line, body, status, part in (
        ("PUT /routing", routes, 200, b'{"version":7,"accepted":true}'),
        ("PUT /routing", routes, 500, b"no room"),
        ("PUT /routing", b"{", 400, b'"hint"'),
        ("GET /metrics?x=1", b"", 200, b"x 1\n"),
        ("GET /traffic", b"", 500, b"failed"),
        ("POST /shutdown", b'{"grace_seconds":-1}', 202, b"true"),
        ("POST /shutdown", b'{"grace_seconds":"x"}', 400, b"grace_seconds"),
        ("GET /routing", b"", 404, b"GET /routing"),
        ("GET /nothing", b"", 404, b"GET /nothing"),
    ):
        found = await control.ask(line, body)
        assert (found[0], part in found[1]) == (status, True), (line, found)
    assert control.plane.done[2:] == [0.0]


async def test_what_is_no_request_ends_its_connection_alone(control: Control) -> None:
    client = await control.silent()
    client.send(b"junk\r\n\r\n")
    assert await client.rest() == b""
    assert (await control.ask("GET /metrics"))[0] == 200


async def test_the_end_waits_for_answers_under_way_and_no_longer_than_a_moment(
    control: Control,
) -> None:
    asked, silent = await control.client("GET /state"), await control.silent()
    await settled()
    began = running_loop().time()
    closing = asyncio.create_task(control.server.close())
    await settled()
    control.plane.go.set()
    assert json.loads((await asked.rest()).partition(b"\r\n\r\n")[2]) == {"version": 7}
    assert not closing.done(), "somebody may be sending a request"
    await closing
    assert running_loop().time() - began == pytest.approx(LAST_ANSWERS_SECONDS, abs=0.01)
    silent.leave()
