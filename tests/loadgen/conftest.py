"""Runs a small completions server whose behaviour a test chooses."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from loadgen.http.connection import now
from tests.proxy.scripted import END, STREAM_HEAD, Received, ScriptedEngine, Step, answer, chunk


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


class SseServer(ScriptedEngine):
    """Answers on a Unix socket and on a port as its behaviour says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, self._answer)
        self.behaviour = Behaviour()
        self.in_flight = self.most_in_flight = self.port = 0
        self.token_times: list[float] = []

    @property
    def socket_path(self) -> str:
        return str(self.path)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [received.body for received in self.received]

    async def until_in_flight(self, least: int, most: int) -> None:
        """Wait until so many requests are in flight."""
        await self.until(lambda: least <= self.in_flight <= most)

    async def _play(
        self, steps: Iterable[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            more = await super()._play(steps, reader, writer)
            return more and not self.behaviour.close_after_answer
        finally:
            self.in_flight -= 1
            self._touch()

    def _answer(self, request: Received) -> Iterator[Step]:
        does = self.behaviour
        if does.hang:
            yield "hold"
        if does.status != 200:
            (refusal,) = answer(does.error_body, does.status, "X\r\nRetry-After: 2")
            yield refusal
            return
        if "input" in request.body:
            yield from answer({"data": [{"embedding": "AAAA"}], "usage": {"prompt_tokens": 7}})
            return
        replica = f"X-Partitiond-Replica: {does.replica}\r\n".encode() if does.replica else b""
        yield STREAM_HEAD[:-2] + replica + b"\r\n"
        wanted, sent = request.body["max_tokens"], 0
        while sent < wanted:
            yield float(does.step_seconds)
            if sent == does.cut_after:
                yield "close"
            if sent == does.error_event_after:
                yield self._event({"error": {"message": "engine broke", "code": 500}})
                break
            count = min(does.tokens_per_chunk, wanted - sent)
            sent += count
            self.token_times += [now()] * count
            last = "length" if sent == wanted else None
            choice = {"index": 0, "text": " w" * count, "finish_reason": last}
            usage = {"prompt_tokens": 7, "completion_tokens": sent}
            told = {"usage": usage} if does.continuous_usage else {}
            yield self._event({"choices": [choice], **told})
        if does.final_usage:
            usage = {"prompt_tokens": 7, "completion_tokens": sent}
            yield self._event({"choices": [], "usage": usage})
        yield (self._event(b"[DONE]") if does.done else b"") + END

    def _event(self, payload: object) -> bytes:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        whole = b"data: " + data + 2 * self.behaviour.line_end
        size = self.behaviour.split_bytes or len(whole)
        return b"".join(chunk(whole[at : at + size]) for at in range(0, len(whole), size))


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[SseServer]:
    made = SseServer(tmp_path / "s.sock")
    await made.start()
    tcp = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = tcp.sockets[0].getsockname()[1]
    yield made
    tcp.close()
    await made.stop()
