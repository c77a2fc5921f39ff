"""Runs a small completions server whose behaviour a test chooses."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from loadgen.http.connection import now
from tests.machine import pace


@dataclasses.dataclass
class Behaviour:
    """What the server does with the next requests."""

    step_seconds: float = 0.002
    tokens_per_chunk: int = 1
    continuous_usage: bool = True
    final_usage: bool = True
    status: int = 200
    error_body: bytes = b'{"error":{"message":"no room","code":503}}'
    error_event_after: int | None = None
    cut_after: int | None = None
    done: bool = True
    close_after_answer: bool = False
    split_bytes: int = 0
    line_end: bytes = b"\n"
    hang: bool = False
    replica: str = ""


class SseServer:
    """Speaks just enough HTTP/1.1."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.behaviour = Behaviour()
        self.bodies: list[dict[str, object]] = []
        self.headers: list[bytes] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self.token_times: list[float] = []
        self._changed = asyncio.Event()

    async def until_in_flight(self, least: int, most: int) -> None:
        """Wait until so many requests are in flight."""
        async with asyncio.timeout(60):
            while not least <= self.in_flight <= most:
                self._changed.clear()
                await self._changed.wait()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        self.headers.append(head)
        self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._changed.set()
        try:
            return await self._answer(body, writer)
        finally:
            self.in_flight -= 1
            self._changed.set()

    async def _answer(self, body: dict[str, object], writer: asyncio.StreamWriter) -> bool:
        does = self.behaviour
        if does.hang:
            await asyncio.Event().wait()
        if does.status != 200:
            writer.write(
                f"HTTP/1.1 {does.status} X\r\nRetry-After: 2\r\nContent-Type: application/json"
                f"\r\nContent-Length: {len(does.error_body)}\r\n\r\n".encode()
                + does.error_body
            )
            await writer.drain()
            return not does.close_after_answer
        if "input" in body:
            document = b'{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":7}}'
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                + b"Content-Length: %d\r\n\r\n" % len(document)
                + document
            )
            await writer.drain()
            return not does.close_after_answer
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            + (f"X-Partitiond-Replica: {does.replica}\r\n".encode() if does.replica else b"")
            + b"Transfer-Encoding: chunked\r\n\r\n"
        )
        wanted = body["max_tokens"]
        assert isinstance(wanted, int)
        sent = 0
        while sent < wanted:
            await pace(does.step_seconds)
            if sent == does.cut_after:
                return False
            if sent == does.error_event_after:
                self._event(writer, b'{"error":{"message":"engine broke","code":500}}')
                break
            count = min(does.tokens_per_chunk, wanted - sent)
            sent += count
            self.token_times += [now()] * count
            self._event(writer, self._chunk(sent, count, last=sent == wanted))
            await writer.drain()
        if does.final_usage:
            usage = {"prompt_tokens": 7, "completion_tokens": sent}
            self._event(writer, json.dumps({"choices": [], "usage": usage}).encode())
        if does.done:
            self._event(writer, b"[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not does.close_after_answer

    def _chunk(self, sent: int, count: int, *, last: bool) -> bytes:
        choice = {"index": 0, "text": " w" * count, "finish_reason": "length" if last else None}
        chunk: dict[str, object] = {"choices": [choice]}
        if self.behaviour.continuous_usage:
            chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": sent}
        return json.dumps(chunk).encode()

    def _event(self, writer: asyncio.StreamWriter, payload: bytes) -> None:
        end = self.behaviour.line_end
        event = b"data: " + payload + end + end
        size = self.behaviour.split_bytes or len(event)
        for at in range(0, len(event), size):
            part = event[at : at + size]
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[SseServer]:
    made = SseServer(str(tmp_path / "s.sock"))
    unix = await asyncio.start_unix_server(made.handle, made.socket_path)
    tcp = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = tcp.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        unix.close()
        tcp.close()
