"""Runs a scripted engine: a raw HTTP server on a Unix socket that can also misbehave."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

Step = bytes | float | str | asyncio.Event
"""Bytes to send, seconds or an event to wait for, or "close", "half_close", "reset", "hold".

"hold" waits until the client leaves; so does "half_close", after which nothing can be sent.
"""


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(payload: object) -> bytes:
    """As vLLM writes them: without a space."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def text_event(text: str, finish: str | None = None) -> bytes:
    return event(
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}],
        }
    )


def chat_event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


DONE = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"


def stream(*pieces: Step) -> list[Step]:
    """A proper stream whose pieces are chunks."""
    body: list[Step] = [chunk(p) if isinstance(p, bytes) else p for p in pieces]
    return [STREAM_HEAD, *body, END]


def answer(payload: object, status: int = 200, reason: str = "OK") -> list[Step]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return [head.encode() + body]


def completion(text: str = "hello") -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def chat(text: str = "hello") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


@dataclasses.dataclass
class Received:
    """One request as the engine saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int


def well_behaved(request: Received) -> list[Step]:
    is_chat = "chat" in request.path
    if not request.body.get("stream"):
        return answer(chat() if is_chat else completion())
    if is_chat:
        return stream(
            chat_event({"role": "assistant", "content": ""}),
            chat_event({"content": "hel"}),
            chat_event({"content": "lo"}),
            chat_event({}, "stop"),
            DONE,
        )
    return stream(text_event("hel"), text_event("lo"), text_event("", "stop"), DONE)


Script = Callable[[Received], Iterable[Step]]


def plays(*steps: Step) -> Script:
    """A script with the same steps for all."""
    return lambda _: list(steps)


class Gate:
    """A script whose requests end when told, in the order they came."""

    def __init__(self) -> None:
        self.events: list[asyncio.Event] = []

    def __call__(self, _: Received) -> list[Step]:
        self.events.append(asyncio.Event())
        return [self.events[-1], *answer(completion())]

    def open(self) -> None:
        """Let all end that have come."""
        for event in self.events:
            event.set()


class ScriptedEngine:
    """Plays `script(request)` for each request."""

    def __init__(self, path: Path, script: Script = well_behaved) -> None:
        self.path = path
        self.script = script
        self.received: list[Received] = []
        self.left = 0
        self.open = 0
        self.steps = 0
        self.changed = asyncio.Event()
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    async def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until the engine's side of things is so."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def got(self, count: int) -> None:
        """Wait for so many requests in all."""
        await self.until(lambda: len(self.received) >= count)

    def prompts(self) -> list[Any]:
        """Of all requests, in order."""
        return [received.body["prompt"] for received in self.received]

    def _touch(self) -> None:
        self.changed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self._touch()
        try:
            await self._connection(reader, writer, self.connections)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        except asyncio.CancelledError:
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            self._touch()
            writer.transport.abort()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                return
            lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            request = Received(lines[0].split(" ")[1], headers, body, number)
            self.received.append(request)
            self._touch()
            if not await self._play(self.script(request), reader, writer):
                return

    async def _play(
        self, steps: Iterable[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        for step in steps:
            self.steps += 1
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step in {"hold", "half_close"}:
                if step == "half_close":
                    writer.write_eof()
                await reader.readexactly(1)
                return False
            elif step == "close":
                writer.close()
                return False
            else:
                writer.transport.abort()
                return False
        return True


@contextlib.asynccontextmanager
async def running(path: Path, script: Script = well_behaved) -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine(path, script)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
