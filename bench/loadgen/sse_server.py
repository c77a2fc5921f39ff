"""Serves completions at almost no cost of its own, for measuring clients.

    python -m bench.loadgen.sse_server --core 1 [--step-seconds 0.01]

The server prints its port and serves until its standard input closes. It answers every request for
n tokens with n events in the shape vLLM sends, rendered once and written one by one, so that the
client gets one wake-up per chunk as from an engine. All streams advance together once per step,
like those of a batching engine.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
from typing import cast

import uvloop

from bench.command import options

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(rb'"(?:max_tokens|max_completion_tokens)"\s*:\s*(\d+)')
_CONTINUOUS = re.compile(rb'"continuous_usage_stats"\s*:\s*true')


def event(sent: int, *, last: bool, usage: bool) -> bytes:
    """One event in one HTTP chunk."""
    choice = {
        "index": 0, "text": " hello", "logprobs": None, "finish_reason": "length" if last else None,
        "stop_reason": None, "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None,
    }  # fmt: skip
    counts = {"prompt_tokens": 16, "total_tokens": 16 + sent, "completion_tokens": sent}
    body = {
        "id": "cmpl-8c1d2b7e5f604c3f9d0a1b2c3d4e5f60", "object": "text_completion",
        "created": 1760000000, "model": "fake", "choices": [choice],
        "usage": counts if usage else None,
    }  # fmt: skip
    return _chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def tail(tokens: int) -> bytes:
    """The closing usage event, [DONE] and the end of the body."""
    usage = {"prompt_tokens": 16, "total_tokens": 16 + tokens, "completion_tokens": tokens}
    body = {"id": "cmpl-1", "object": "text_completion", "choices": [], "usage": usage}
    done = b"data: " + json.dumps(body).encode() + b"\n\n"
    return _chunk(done) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Rendered:
    """Events by position, rendered once for all streams."""

    def __init__(self) -> None:
        self._events: dict[tuple[int, bool, bool], bytes] = {}

    def event(self, sent: int, total: int, *, usage: bool) -> bytes:
        key = (sent, sent == total, usage)
        if key not in self._events:
            self._events[key] = event(sent, last=sent == total, usage=usage)
        return self._events[key]


class Stream(asyncio.Protocol):
    """One connection; serves one request at a time."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._data = b""
        self.total = self.sent = 0
        self.usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server.streams.discard(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length.group(1)):
            if found and length is None:
                self._plain(head)
            return
        self._data = b""
        tokens = _MAX_TOKENS.search(body)
        self.total, self.sent = int(tokens.group(1)) if tokens else 16, 0
        self.usage = _CONTINUOUS.search(body) is not None
        self._transport.write(HEAD)
        self._server.streams.add(self)

    def _plain(self, head: bytes) -> None:
        """Answer the GET requests of a client's readiness check."""
        self._data = b""
        body = b'{"object":"list","data":[{"id":"fake","object":"model"}]}' if head else b""
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    def advance(self) -> bool:
        """Send one event; return True if the answer has ended."""
        self.sent += 1
        self._transport.write(self._server.rendered.event(self.sent, self.total, usage=self.usage))
        if self.sent < self.total:
            return False
        self._transport.write(tail(self.total))
        return True


class Server:
    """Streams that advance together."""

    def __init__(self, step_seconds: float) -> None:
        self.step_seconds = step_seconds
        self.streams: set[Stream] = set()
        self.rendered = Rendered()

    async def pace(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.step_seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            for stream in [s for s in self.streams if s.advance()]:
                self.streams.discard(stream)


async def serve(step_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = Server(step_seconds)
    listening = await loop.create_server(lambda: Stream(server), "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    pacing = asyncio.create_task(server.pace())
    await loop.run_in_executor(None, sys.stdin.read)
    pacing.cancel()
    listening.close()


def main() -> None:
    parser = options(__doc__, step_seconds=0.01)
    parser.add_argument("--core", type=int, required=True)
    given = parser.parse_args()
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {given.core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.step_seconds))


if __name__ == "__main__":
    main()
