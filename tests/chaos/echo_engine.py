"""Runs a raw engine that puts the token of its request into every piece of an answer.

The prompt says what to do, in `name=value` words:

    token=ab12   put into every piece of the answer
    count=5      pieces (tokens) of the answer
    pause=0.01   seconds before each piece
    hold=head    answer nothing; hold=body: a head and one piece, then nothing
    poison=1     the process dies, if it was started with --dies-on-poison

In a test's event loop the engine is an object that counts; `python -m tests.chaos.echo_engine --uds
PATH` is a process that can be killed. It uses the standard library only, to start quickly.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

_WORD = re.compile(r"(\w+)=([^\s\"\\]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of the engine."""

    chat: bool
    stream: bool
    usage: bool
    token: str
    count: int
    pause: float
    hold: str
    poison: bool


def words_of(body: bytes) -> dict[str, str]:
    """The `name=value` words of a request's prompt, or of its messages."""
    return dict(_WORD.findall(body.decode("utf-8", "replace")))


def read_wish(path: str, body: bytes) -> Wish:
    payload = json.loads(body)
    words = words_of(body)
    return Wish(
        chat="chat" in path,
        stream=bool(payload.get("stream")),
        usage=bool((payload.get("stream_options") or {}).get("include_usage")),
        token=words.get("token", "none"),
        count=int(words.get("count", "3")),
        pause=float(words.get("pause", "0")),
        hold=words.get("hold", ""),
        poison="poison" in words,
    )


def piece(token: str, number: int) -> str:
    """One token of an answer."""
    return f"{token}-{number} "


def full_text(token: str, count: int) -> str:
    """The text of a complete answer."""
    return "".join(piece(token, number) for number in range(count))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(value: object) -> bytes:
    return chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": count + 4}


def answer_pieces(wish: Wish) -> Iterator[bytes]:
    """What goes onto the wire, piece by piece; a chunk is a piece."""
    kind = "chat.completion" if wish.chat else "text_completion"
    about = {"id": f"id-{wish.token}", "object": kind, "created": 1, "model": "m"}
    if not wish.stream:
        yield _whole(wish, about)
        return
    yield STREAM_HEAD
    if wish.chat:
        about["object"] = "chat.completion.chunk"
        yield _event(about | {"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    for number in range(wish.count):
        text = piece(wish.token, number)
        said: dict[str, object] = {"delta": {"content": text}} if wish.chat else {"text": text}
        last = number == wish.count - 1
        choice = {"index": 0, "finish_reason": "length" if last else None, **said}
        yield _event(about | {"choices": [choice]})
    if wish.usage:
        yield _event(about | {"choices": [], "usage": _usage(wish.count)})
    yield chunk(b"data: [DONE]\n\n")
    yield b"0\r\n\r\n"


def _whole(wish: Wish, about: dict[str, object]) -> bytes:
    text = full_text(wish.token, wish.count)
    choice: dict[str, object] = {"index": 0, "finish_reason": "length"}
    choice |= {"message": {"role": "assistant", "content": text}} if wish.chat else {"text": text}
    body = json.dumps(about | {"choices": [choice], "usage": _usage(wish.count)}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class EchoEngine:
    """Counts what its connections do.

    Attributes:
        requests: taken so far.
        running: requests whose answer is not complete.
        left: requests whose client left before the end.
        paused: connections on which the other side takes nothing at the moment.
        tokens: of the requests, in order.
    """

    def __init__(self, path: Path, *, dies_on_poison: bool = False) -> None:
        self.path = path
        self.dies_on_poison = dies_on_poison
        self.requests = 0
        self.running = 0
        self.left = 0
        self.open = 0
        self.paused: set[_Connection] = set()
        self.tokens: list[str] = []
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self), str(self.path), backlog=1024
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()
        self.path.unlink(missing_ok=True)


class _Connection(asyncio.Protocol):
    def __init__(self, engine: EchoEngine) -> None:
        self._engine = engine
        self._buffer = b""
        self._pieces: Iterator[bytes] | None = None
        self._wish: Wish | None = None
        self._written = 0
        self._waiting = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._engine.connections.add(self)
        self._engine.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._engine.connections.discard(self)
        self._engine.paused.discard(self)
        self._engine.open -= 1
        if self._pieces is not None:
            self._pieces = None
            self._engine.running -= 1
            self._engine.left += 1

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        self._engine.paused.add(self)

    def resume_writing(self) -> None:
        self._engine.paused.discard(self)
        self._pump()

    def _next(self) -> None:
        if self._pieces is not None:
            return
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        stop = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < stop:
            return
        path = self._buffer[:end].split(b" ", 2)[1].decode()
        body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
        self._wish = read_wish(path, body)
        if self._wish.poison and self._engine.dies_on_poison:
            os._exit(1)
        self._engine.requests += 1
        self._engine.running += 1
        self._engine.tokens.append(self._wish.token)
        self._pieces = answer_pieces(self._wish)
        self._written = 0
        self._pump()

    def _pump(self) -> None:
        """Write until the client is slow, or a pause is due."""
        wish = self._wish
        while self._pieces is not None and self not in self._engine.paused and not self._waiting:
            assert wish is not None
            if wish.hold and self._written == (0 if wish.hold == "head" else 3):
                return
            if wish.pause and self._written:
                self._waiting = True
                asyncio.get_running_loop().call_later(wish.pause, self._write_one)
                return
            self._write()

    def _write_one(self) -> None:
        self._waiting = False
        if self._pieces is not None:
            self._write()
            self._pump()

    def _write(self) -> None:
        assert self._pieces is not None
        data = next(self._pieces, None)
        if data is None:
            self._pieces = None
            self._engine.running -= 1
            self._next()
            return
        self._written += 1
        if self._transport is not None:
            self._transport.write(data)


@contextlib.asynccontextmanager
async def echoing(path: Path) -> AsyncIterator[EchoEngine]:
    """An echo engine in this event loop."""
    engine = EchoEngine(path)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def _main(path: Path, dies_on_poison: bool) -> None:
    await EchoEngine(path, dies_on_poison=dies_on_poison).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--dies-on-poison", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.uds, arguments.dies_on_poison))
