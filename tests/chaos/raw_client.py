"""Reads HTTP byte by byte as a client without assumptions, and says how an answer ended."""

import asyncio
import contextlib
import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came.

    Attributes:
        status: 0 when the connection ended before a head.
        complete: it ended as its framing says; else it was cut off.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def code(self) -> str:
        """The error's code, or empty."""
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return str(json.loads(self.body)["error"]["code"])
        return ""


NOTHING = Answer(0, {}, b"", False)


def request_bytes(path: str, payload: object, *headers: str) -> bytes:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class RawClient:
    """One connection at a time, kept while the other side keeps it."""

    def __init__(self, port: int, *, limit: int = 2**16) -> None:
        self._port = port
        self._limit = limit
        self._reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.begun = asyncio.Event()
        """Set once the first bytes of an answer's body are here."""

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def connect(self) -> None:
        self._reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=self._limit
        )

    async def post(self, path: str, payload: object, *headers: str) -> Answer:
        """Send a request, on the kept connection if there is one; read its answer to the end."""
        if self.writer is None or self.writer.is_closing():
            await self.connect()
        await self.send(request_bytes(path, payload, *headers))
        return await self.answer()

    async def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> Answer:
        """The next answer; what is there of it when the connection breaks."""
        assert self._reader is not None
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return NOTHING
        status, headers = read_head(head)
        body, complete = await self._body(headers)
        if not complete or headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, complete)

    async def read(self, count: int) -> bytes:
        """What comes, at most so many bytes; empty at the end."""
        assert self._reader is not None
        try:
            return await self._reader.read(count)
        except ConnectionError:
            return b""

    def close(self) -> None:
        """Leave at once."""
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None

    async def _body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        assert self._reader is not None
        reader = self._reader
        parts: list[bytes] = []
        try:
            if headers.get("transfer-encoding") == "chunked":
                while True:
                    size = int(await reader.readuntil(b"\r\n"), 16)
                    self.begun.set()
                    data = await reader.readexactly(size + 2)
                    assert data.endswith(b"\r\n"), "a chunk is longer than it says"
                    if size == 0:
                        return b"".join(parts), True
                    parts.append(data[:-2])
            if "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
                return body, True
            return await reader.read(-1), True
        except asyncio.IncompleteReadError as error:
            return b"".join([*parts, error.partial]), False
        except ConnectionError:
            return b"".join(parts), False


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines[1:] if line)
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, value in pairs}


def completion(prompt: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": prompt, "stream": stream, **more}


def chat(prompt: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "stream": stream, **more}


COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


async def ask(
    client: RawClient,
    prompt: str,
    *,
    is_chat: bool = False,
    stream: bool = False,
    model: str = "m",
    seconds: float = 60,
    max_tokens: int = 5,
    **more: Any,
) -> Answer:
    """One generation request. A hang is a failure. (An echo engine looks at the prompt only.)"""
    kind = chat if is_chat else completion
    payload = kind(prompt, stream=stream, max_tokens=max_tokens, **more)
    async with asyncio.timeout(seconds):
        return await client.post(CHAT if is_chat else COMPLETIONS, payload | {"model": model})
