"""Heads that the proxy has read before are not parsed again, and no client can pass for another.

Each test first makes the proxy remember a head, in ways that could confuse it, and then sends
requests on fresh connections.
"""

import json

import pytest

from partitiond.proxy.edge.known_heads import (
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    KnownHead,
    KnownHeads,
)
from tests.security.attacks import BODY, WRONG_LENGTHS, good
from tests.security.target import KEY, OTHER_MODEL, StrictEngine, Target, key
from tests.security.wire import Wire, exchange, post, status_of

NO_KEY = post(BODY)
REFUSED = {
    401: (post(BODY, b"authorization: Bearer wrong"), NO_KEY),
    415: (good(b"content-type: text/plain", json_type=False), good(b"content-encoding: gzip")),
    404: (good(target=b"/v1/none"),),
    405: (good(line=b"GET /v1/completions HTTP/1.1"),),
    400: (good(body=b"{"), good(body=b"")),
    413: (good(body=b"x" * 70_000),),
}
ROWS = [(data, expected) for expected, rows in REFUSED.items() for data in rows]


async def status(proxy: Target, data: bytes) -> int:
    return await status_of(proxy.port, data)


async def in_one_piece(proxy: Target, *requests: bytes) -> None:
    """As a proxy in front would send those of several clients."""
    wire = await Wire.to(proxy.port)
    wire.send(b"".join(requests))
    for _ in range(b"".join(requests).count(b"HTTP/1.1\r\n")):
        await wire.answer()


@pytest.mark.parametrize(("data", "expected"), ROWS)
async def test_a_refused_head_is_not_taken_for_the_good_one_after_it(
    proxy: Target, engine: StrictEngine, data: bytes, expected: int
) -> None:
    """Nor the good one for the refused one before it."""
    for after in (good(), good() * 2, NO_KEY + good(), b"\r\n" + good()) * 2:
        await in_one_piece(proxy, data, after)
        engine.forget()
        assert await status(proxy, data) == expected
        assert engine.received == []
    await in_one_piece(proxy, good(), data)
    engine.forget()
    assert (await status(proxy, good()), await status(proxy, data)) == (200, expected)
    assert len(engine.received) == 1


async def test_a_plain_head_is_known_and_an_unusual_one_is_not(proxy: Target) -> None:
    for data, is_known in ((good(b"x: known"), True), (good(b"te: trailers"), False)):
        assert await status(proxy, data) == 200
        assert (proxy.proxy.state.known_heads.find(data) is not None) is is_known


async def test_a_known_head_with_another_length_line_is_read_anew(
    proxy: Target, engine: StrictEngine
) -> None:
    lines = [b"content-length: " + value for value in WRONG_LENGTHS]
    more = b"Content-Length: 26", b"transfer-encoding: chunked", b"content-length: 5"
    lines += [b"content-length: 26\r\n" + line for line in more]
    lines += [b"content-length:\r\n 26", b"content-length : 26", b"content-length: 26\nx: y"]
    lines += [b"content-length: 26\rx: y", b"x: y\r\n content-length: 26"]
    for length in lines:
        assert await status(proxy, good()) == 200
        engine.forget()
        found = await exchange(proxy.port, good(length=length), 1)
        assert (found.answers[0].status, found.closed) == (400, True), length
        assert engine.received == []


async def test_the_length_of_each_request_is_its_own(proxy: Target, engine: StrictEngine) -> None:
    for size in (0, 1, 25, 26, 27, 4096):
        body = json.dumps({"model": "m", "prompt": "x" * size}).encode()
        for data in (good(), good(body=body), good()):
            engine.forget()
            assert await status(proxy, data) == 200
            assert len(engine.received) == 1
    assert engine.violations == []


async def test_bytes_before_and_after_a_known_head_are_read_as_what_they_are(proxy: Target) -> None:
    assert await status(proxy, good()) == 200
    for data, statuses, closed in (
        (good() + b"x", (200,), True),
        (b"x" + good(), (400,), True),
        (b"\r\n" + good(), (200,), False),
        (b"\n\n" + good(), (200,), False),
        (good()[:-1] + b"x", (400,), False),
    ):
        found = await exchange(proxy.port, data, len(statuses))
        assert (tuple(a.status for a in found.answers), found.closed) == (statuses, closed), data


async def test_a_known_head_loses_its_key_with_the_table(proxy: Target) -> None:
    """And keeps no scope: whatever changes of a key holds for the next request."""
    keys = {
        "gone": ([], 401, 401),
        "other": ([key("sk-other")], 401, 401),
        "scope": ([key(KEY, models=(OTHER_MODEL,))], 404, 200),
        "all": ([key(KEY)], 200, 200),
        "m": ([key(KEY, models=("m",))], 200, 404),
    }
    other = good(body=json.dumps({"model": OTHER_MODEL, "prompt": "x"}).encode())
    try:
        for held, expected, expected_other in keys.values():
            proxy.publish(keys=held)
            for _ in range(2):
                assert (await status(proxy, good()), await status(proxy, other)) == (
                    expected,
                    expected_other,
                )
    finally:
        proxy.publish(keys=[key(KEY, models=("m",))])


async def test_a_known_head_of_a_last_request_is_still_the_last(
    proxy: Target, engine: StrictEngine
) -> None:
    last = good(b"connection: close")
    for _ in range(3):
        engine.forget()
        found = await exchange(proxy.port, last, 1)
        assert (found.answers[0].status, found.closed) == (200, True)
        found = await exchange(proxy.port, [last, good()], 1)
        assert (found.answers[0].status, found.closed) == (200, True)
        assert len(engine.received) == 2


def test_no_more_and_no_longer_heads_are_kept_than_the_bounds_and_the_oldest_goes_first() -> None:
    heads, known = KnownHeads(), KnownHead(None, None, keep_alive=True)  # type: ignore[arg-type]

    def data(number: int, size: int = 0) -> bytes:
        head = b"POST /%d HTTP/1.1\r\nContent-Length: 2\r\nX: " % number
        return head.ljust(size, b"x") + b"\r\n\r\n{}"

    for number in range(MAX_KNOWN + 1):
        heads.keep(data(number), known)
    assert heads.find(data(0)) is None
    for number in (1, MAX_KNOWN):
        assert heads.find(data(number)) == (known, b"{}")
    for size, kept in ((MAX_KNOWN_BYTES, True), (MAX_KNOWN_BYTES + 1, False)):
        heads.keep(data(9, size), known)
        assert (heads.find(data(9, size)) is not None) is kept
