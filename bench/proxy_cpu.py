"""CPU time the proxy takes per request and per chunk, beside a plain FastAPI + httpx proxy.

    python -m bench.proxy_cpu [--rounds 3] [--seconds 3]

Both proxies are processes of their own in front of the same scripted upstream on a Unix socket,
and are driven by the same client in turns (A B A B ...). CPU time is the kernel's count for the
proxy's process (user and system), so a busy machine moves it much less than latency. Requests:
64 connections, not streamed, as fast as they go. Chunks: 64 streams, one chunk every 10 ms each.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.paired import alternate, compare
from partitiond.core.routing import ModelAvailability, ModelRoute, ReplicaRoute, RoutingTable
from partitiond.serde import to_json

CONNECTIONS = 64
CHUNK_SECONDS = 0.01
STREAM_CHUNKS = 200
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

ANSWER = json.dumps(
    {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": "hello " * 20, "logprobs": None,
                     "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23},
    }
).encode()  # fmt: skip
EVENT = (
    b"data: "
    + json.dumps(
        {
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "text": " hello", "logprobs": None, "finish_reason": None}],
        }
    ).encode()
    + b"\n\n"
)  # fmt: skip


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """Answers at once, or streams one event every `CHUNK_SECONDS`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.buffer = body[length:]
        if b'"stream":true' in body.replace(b" ", b""):
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            self.tick(STREAM_CHUNKS)
        else:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
            )

    def tick(self, left: int) -> None:
        if self.transport.is_closing():
            return
        if left == 0:
            self.transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        self.transport.write(chunk(EVENT))
        asyncio.get_running_loop().call_later(CHUNK_SECONDS, self.tick, left - 1)


async def run_upstream(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Upstream, path, backlog=1024)
    await server.serve_forever()


async def run_baseline(path: str, port: int) -> None:
    """A proxy as one writes it in an hour."""
    import fastapi
    import httpx
    import uvicorn
    from fastapi.responses import Response, StreamingResponse
    from starlette.background import BackgroundTask

    app = fastapi.FastAPI()
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            uds=path, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256)
        ),
        base_url="http://engine",
        timeout=60,
    )

    @app.post("/v1/completions")
    async def completions(request: fastapi.Request) -> Response:
        body = await request.json()
        upstream = client.build_request("POST", "/v1/completions", json=body)
        answer = await client.send(upstream, stream=True)
        if not body.get("stream"):
            return Response(await answer.aread(), answer.status_code)
        return StreamingResponse(
            answer.aiter_raw(),
            media_type="text/event-stream",
            background=BackgroundTask(answer.aclose),
        )

    config = uvicorn.Config(app, port=port, log_level="error", access_log=False)
    await uvicorn.Server(config).serve()


REQUEST_HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


async def request_loop(port: int, until: float, *, streamed: bool) -> tuple[int, int]:
    """(requests, chunks) of one connection, one request after the other."""
    body = json.dumps(
        {"model": "m", "prompt": "hi", "max_tokens": 20, **({"stream": True} if streamed else {})}
    ).encode()
    request = REQUEST_HEAD % len(body) + body
    end = b"0\r\n\r\n" if streamed else ANSWER[-40:]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    requests = chunks = 0
    while time.monotonic() < until:
        writer.write(request)
        data = b""
        while not data.endswith(end):
            piece = await reader.read(65536)
            if not piece:
                raise RuntimeError(f"the proxy closed the connection after {data[-200:]!r}")
            data = (data + piece)[-4096:]
            chunks += piece.count(b"data: {")
        requests += 1
    writer.close()
    return requests, chunks


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


async def measure(port: int, pid: int, seconds: float, *, streamed: bool) -> tuple[float, float]:
    """(CPU us per unit, units per second); a unit is a request, or a chunk when streamed."""
    started, used = time.monotonic(), cpu_seconds(pid)
    counts = await asyncio.gather(
        *(request_loop(port, started + seconds, streamed=streamed) for _ in range(CONNECTIONS))
    )
    used, elapsed = cpu_seconds(pid) - used, time.monotonic() - started
    units = sum(chunks if streamed else requests for requests, chunks in counts)
    return used / units * 1e6, units / elapsed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextlib.contextmanager
def process(*words: str) -> Iterator[int]:
    child = subprocess.Popen([sys.executable, *words])
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def write_table(folder: Path, path: str) -> None:
    """What the proxy would have got from the daemon."""
    table = RoutingTable(
        1,
        (ModelRoute("m", ModelAvailability.SERVING, "m"),),
        (ReplicaRoute("m-1", "m", path, "1-1", 1024, 0, 4096),),
    )
    (folder / "routing.json").write_text(to_json(table))


UNITS = {
    "CPU per request": "us",
    "CPU per chunk": "us",
    "requests, as fast as they go": "1/s",
    "chunks of 64 paced streams": "1/s",
}


async def figures(port: int, pid: int, seconds: float) -> dict[str, float]:
    """One run of one side."""
    request_us, request_rate = await measure(port, pid, seconds, streamed=False)
    chunk_us, chunk_rate = await measure(port, pid, seconds, streamed=True)
    return dict(zip(UNITS, (request_us, chunk_us, request_rate, chunk_rate), strict=True))


async def run(
    rounds: int, seconds: float, ours: tuple[int, int], baseline: tuple[int, int]
) -> None:
    """Alternate, and print the comparison; the first run of each side only warms it up."""
    for port, pid in (ours, baseline):
        await figures(port, pid, min(1.0, seconds))
    results = await alternate(
        rounds,
        lambda _: figures(*ours, seconds),
        lambda _: figures(*baseline, seconds),
        lambda line: print(line, file=sys.stderr),
    )
    print(f"{'':34} {'ours':>9} {'httpx':>9}")
    for comparison in compare(*results, UNITS):
        print(comparison.line())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--run", choices=["upstream", "baseline"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run == "upstream":
        uvloop.run(run_upstream(given.path))
        return
    if given.run == "baseline":
        uvloop.run(run_baseline(given.path, given.port))
        return
    with tempfile.TemporaryDirectory(prefix="pd-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        path = str(folder / "e.sock")
        write_table(folder, path)
        ours, theirs = free_port(), free_port()
        me = ("-m", "bench.proxy_cpu", "--path", path)
        stack.enter_context(process(*me, "--run", "upstream"))
        baseline = stack.enter_context(process(*me, "--run", "baseline", "--port", str(theirs)))
        proxy = stack.enter_context(
            process(
                "-m", "partitiond.proxy", "--port", str(ours), "--state-dir", name,
                "--control-socket", str(folder / "run" / "p.sock"),
                "--log-file", str(folder / "proxy.log"),
            )
        )  # fmt: skip
        for port in (ours, theirs):
            wait_for_port(port)
        uvloop.run(run(given.rounds, given.seconds, (ours, proxy), (theirs, baseline)))


if __name__ == "__main__":
    main()
