"""Random and mutated bytes from both sides cause no crash, no hang, no leak, no broken answer.

The normal runs are short and always the same; the slow ones take a new seed and tell it.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest

from tests.proxy.scripted import DONE, Received, Step, completion, stream, text_event
from tests.security.attacks import ATTACKS, BODY, CHUNKED, chunk, good
from tests.security.target import KEY, Target, key
from tests.security.wire import Wire, status_of

TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\x00", b" ", b"\t", b":", b";", b",",
    b"0\r\n\r\n", b"0", b"-1", b"+1", b"ffffffffffffffff", b"99999999999999999999", b"chunked",
    b"identity",
    b"transfer-encoding: chunked\r\n", b"content-length: 0\r\n", b"content-length: 26\r\n",
    b"connection: close\r\n", b"connection: keep-alive\r\n", b"connection: upgrade\r\n",
    b"upgrade: h2c\r\n", b"expect: 100-continue\r\n", b"host: a\r\n", b"HTTP/1.1", b"HTTP/1.0",
    b"GET / HTTP/1.1\r\n\r\n", b"POST ", b"%2e", b"%00", b"\xff", b"\xc3\x28", b"{", b"}", b"[",
    b"]", b'"', b"\\u0000", b"data: ", b"data: [DONE]\n\n", b"event: error\n", b": comment\n",
    b'{"error":{"message":"x"}}', b'{"usage":', b"1e999", b"null", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 x\r\n\r\n", b"HTTP/1.1 204 x\r\n", b"HTTP/1.1 304 x\r\n", b"HTTP/1.1 999 x\r\n",
)  # fmt: skip


def mutated(random_: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after a few changes; sometimes only random bytes."""
    if random_.random() < 0.02:
        return random_.randbytes(random_.randint(1, 200))
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.choice((0, 1, 1, 1, 2, 3, 6))):
        _change(random_, data, seeds)
    return bytes(data)


def _change(random_: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    start = random_.randint(0, len(data))
    end = min(len(data), start + random_.choice((1, 1, 2, 4, 16, 64)))
    match random_.randrange(7):
        case 0 if start < len(data):
            data[start] ^= 1 << random_.randrange(8)
        case 1:
            data[start:start] = random_.choice(TOKENS)
        case 2:
            del data[start:end]
        case 3:
            data[start:start] = data[start:end] * random_.choice((1, 2, 50))
        case 4:
            other = random_.choice(seeds)
            data[start:] = other[random_.randint(0, len(other)) :]
        case 5:
            del data[start:]
        case _:
            data[start:end] = random_.randbytes(end - start)


def pieces(random_: random.Random, data: bytes) -> list[bytes]:
    """The bytes cut anywhere: what comes in one piece and what in two must not matter."""
    if not data or random_.random() < 0.6:
        return [data]
    cuts = sorted(random_.randint(0, len(data)) for _ in range(random_.randint(1, 4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


BATCHES = 30
ANSWERED = 60
BATCH = 24
CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}'

REQUESTS = [
    good(),
    good() * 2,
    good(body=CHAT, target=b"/v1/chat/completions"),
    good(CHUNKED, body=chunk(BODY) + b"0\r\n\r\n", length=b""),
    good(line=b"GET /v1/models HTTP/1.1", body=b"", length=b""),
    *(attack.data for attack in ATTACKS if len(attack.data) < 4000),
]


def whole(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + extra + b"\r\n" + body


def streamed(*parts: bytes) -> bytes:
    return b"".join(step for step in stream(*parts) if isinstance(step, bytes))


A, B = text_event("a"), text_event("b")
COMPLETION = json.dumps(completion()).encode()
ANSWERS = [
    whole(COMPLETION),
    whole(COMPLETION, extra=b"connection: close\r\nx: y\r\n"),
    whole(b'{"error":{"message":"no","type":"x","param":null,"code":400}}', "400 No"),
    whole(b'{"detail":"no"}', "500 No"),
    streamed(A, B, DONE),
    streamed(A + B + DONE),
    streamed(A, b'data: {"error":{"message":"x"}}\n\n', DONE),
    streamed(A[:20], A[20:], b": ping\n\n", DONE),
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + COMPLETION,
    b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"{}"),
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"",
]


OPTIONS = {
    "max_body_bytes": 65536,
    "first_token_timeout_seconds": 1.0,
    "between_tokens_timeout_seconds": 1.0,
    "total_timeout_seconds": 2.0,
}
KEYS = [key(KEY)]


@pytest.fixture
async def target(proxy: Target) -> AsyncIterator[Target]:
    """Whatever is done to it: nothing is left, nothing was a surprise, and it serves on."""
    yield proxy
    await asyncio.sleep(60)
    assert proxy.proxy.idle()
    assert proxy.proxy.connections() == 0
    assert proxy.engine.violations == []
    proxy.engine.forget()
    proxy.publish(KEYS, generation="after")
    await serves(proxy)


async def serves(target: Target) -> None:
    assert await status_of(target.port, good()) == 200


async def fuzz_as_clients(target: Target, seed: int, batches: int) -> None:
    """Batches of connections, each with its mutated bytes."""
    random_ = random.Random(seed)
    for _ in range(batches):
        clients = []
        for _ in range(BATCH):
            client = await Wire.to(target.port)
            clients.append(client)
            for piece in pieces(random_, mutated(random_, REQUESTS)):
                client.send(piece)
            if random_.random() < 0.5:
                client.shut()
        await asyncio.sleep(0.002)
        for client in clients:
            client.leave()
            data = client.received()
            assert not data or data.startswith(b"HTTP/1.1 "), data[:200]
            assert b"HTTP/1.1 500" not in data, data[:2000]
        await serves(target)


async def fuzz_as_engine(target: Target, seed: int, requests: int) -> None:
    """Good requests, answered with mutated bytes."""
    random_ = random.Random(seed)
    body = json.loads(BODY)

    def script(_: Received) -> list[Step]:
        data = mutated(random_, ANSWERS)
        return [data, "close"] if random_.random() < 0.9 else [data]

    target.engine.script = script
    for count in range(requests):
        if count % 4 == 0:  # an ejected replica would see nothing for a while
            target.publish(KEYS, generation=f"{seed}-{count}")
        streamed = random_.random() < 0.5
        request = good(body=json.dumps({**body, "stream": streamed}).encode())
        wire = await Wire.to(target.port)
        answer = await wire.ask(request)
        wire.leave()
        assert answer.status not in {204, 304}, "an answer with a body that must have none"
        assert answer.status != 500 or answer.code != "internal_error", (seed, count)
        if streamed and answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.body.endswith(DONE), (seed, count, answer.body[-300:])
        elif answer.status >= 400:
            assert answer.json()["error"]["message"], (seed, count, answer)


LONG_RUN = pytest.param(20, marks=pytest.mark.soak)


def seed_of(times: int) -> int:
    """The same each time, or a new one on request for the long runs (see tests/conftest.py)."""
    is_new = times > 1 and os.environ.get("HYPOTHESIS_PROFILE") == "hunt"
    seed = time.time_ns() if is_new else times
    print(f"seed {seed}")
    return seed


@pytest.mark.parametrize("times", [1, LONG_RUN])
async def test_mutated_requests_do_no_harm(target: Target, times: int) -> None:
    await fuzz_as_clients(target, seed_of(times), times * BATCHES)


@pytest.mark.parametrize("times", [1, LONG_RUN])
async def test_mutated_answers_of_engines_do_no_harm(target: Target, times: int) -> None:
    await fuzz_as_engine(target, seed_of(times), times * ANSWERED)
