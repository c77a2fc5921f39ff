"""Lists raw attacks on the data listener, each with its one right answer.

After a message whose end two readers could see in two places, the only right answer is to close:
the bytes that follow may be another client's request.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tests.security.wire import post

BODY: Final = b'{"model":"m","prompt":"x"}'
AUTH: Final = b"authorization: Bearer sk-good"
CHUNKED: Final = b"transfer-encoding: chunked"
LENGTH: Final = b"content-length: %d" % len(BODY)
END: Final = b"0\r\n\r\n"
LONG: Final = b"y" * 40_000


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row.

    Attributes:
        answers: statuses of all answers in order.
        code: error code of the last answer.
        closed: whether the connection ends.
        forwarded: requests the engine sees.
        head_only: the answer has no body.
        is_early: it ends with bytes before the answer to a request, and begins anew where they
            come after it: it is sent as a whole.
    """

    name: str
    data: bytes
    answers: tuple[int, ...] = (400,)
    code: str = "invalid_http"
    closed: bool = True
    forwarded: int = 0
    head_only: bool = False
    is_early: bool = False


def good(*headers: bytes, body: bytes = BODY, **rest: Any) -> bytes:
    """A good request, but for what the row does to it."""
    return post(body, AUTH, *headers, **rest)


HIDDEN: Final = good()
"""A request with a good key: where it lies inside another, it must never run."""


def chunk(data: bytes, size: bytes | None = None, extension: bytes = b"") -> bytes:
    """One chunk; `size` replaces the true one."""
    return (b"%x" % len(data) if size is None else size) + extension + b"\r\n" + data + b"\r\n"


def chunked(*parts: bytes, headers: tuple[bytes, ...] = (), end: bytes = END) -> bytes:
    """A chunked request."""
    return good(*headers, CHUNKED, body=b"".join(parts) + end, length=b"")


def encoded(*headers: bytes, **rest: Any) -> bytes:
    """A request with a chunked body, and these lines in place of what says so."""
    return good(*headers, body=chunk(BODY) + END, length=b"", **rest)


def listed(group: str, rows: Iterable[bytes], **rest: Any) -> Iterator[Attack]:
    """Rows with the same answer; without one, they are refused as no HTTP, and the end."""
    for number, data in enumerate(rows):
        yield Attack(f"{group}-{number}", data, **rest)


def served(group: str, *rows: bytes) -> Iterator[Attack]:
    """Harmless after all: answered once, forwarded once, the connection goes on."""
    return listed(group, rows, answers=(200,), code="", closed=False, forwarded=1)


def refused(group: str, status: int, code: str, *rows: bytes) -> Iterator[Attack]:
    """Understood and refused; the connection goes on."""
    return listed(group, rows, answers=(status,), code=code, closed=False)


def answered(name: str, data: bytes, *answers: int, code: str = "", **rest: Any) -> Attack:
    """Several requests, each with its answer, after which the connection goes on."""
    return Attack(name, data, answers, code, **{"closed": False, **rest})


def ended(name: str, data: bytes, *answers: int, code: str = "", forwarded: int = 0) -> Attack:
    """The same, and the connection ends."""
    return Attack(name, data, answers, code, forwarded=forwarded)


def early(group: str, *rows: bytes) -> Iterator[Attack]:
    """A good request and what comes before its answer, which is not taken."""
    return listed(group, rows, answers=(200,), code="", forwarded=1, is_early=True)


WRONG_LENGTHS: Final = (
    b"26, 26", b"+26", b"-26", b"-0", b"0x1a", b"2 6", b"26.0", b"2_6", b"2e1", b"", b"9" * 1000,
    "٢٦".encode(), b"2\xb2", b"18446744073709551642", b"\x0b26",
)  # fmt: skip
LENGTHS: Final = (
    *listed("length", (good(length=b"content-length: " + value) for value in WRONG_LENGTHS)),
    *listed("lengths", (
        encoded(LENGTH, CHUNKED), encoded(CHUNKED, LENGTH), good(LENGTH),
        good(b"content-length: 5", CHUNKED, body=END + HIDDEN, length=b""),
        good(b"content-length: 5", body=BODY + HIDDEN), good(b"content-length: 0", body=BODY),
        good(length=b"content-length : 26"),
    )),
    *served("length-with-spaces-or-zeros", *(
        good(length=b"content-length: " + value) for value in (b"\t 26 \t", b"00000026")
    )),
    *early("length-too-short-for-the-body", good(body=BODY + b"x" * 4, length=LENGTH)),
    *refused("no-length-and-no-body", 400, "invalid_json", good(body=b"", length=b"")),
    ended("length-beyond-the-limit", good(body=b"", length=b"content-length: 99999999999"), 413,
          code="request_too_large"),
    ended("body-of-a-get", good(line=b"GET /v1/models HTTP/1.1", body=HIDDEN), 200),
    ended("hidden-of-no-route", good(target=b"/v1/none", body=HIDDEN), 404, code="unknown_url"),
    *refused("type", 415, "unsupported_media_type",
             good(b"content-type: text/plain", body=HIDDEN, json_type=False),
             good(b"content-type: application/x-www-form-urlencoded", json_type=False),
             good(json_type=False), good(b"content-encoding: gzip")),
    *refused("hidden-of-no-key", 401, "invalid_api_key", post(HIDDEN, b"authorization: Bearer x")),
)  # fmt: skip

WRONG_ENCODINGS: Final = (
    b"chunked, identity", b"identity", b"xchunked", b"chunkedx", b"chunked;q=0.5", b'"chunked"',
    b"\x0bchunked", b"chunked\x00", b"", b"cow", b"gzip", b"chunked, chunked", b"identity, chunked",
    b"gzip, chunked", b", chunked",
)  # fmt: skip
ENCODINGS: Final = (
    *served("chunked", chunked(chunk(BODY)), chunked(*(chunk(bytes([b])) for b in BODY)),
            encoded(b"Transfer-Encoding: CHUNKED"), good(b"transfer_encoding: chunked")),
    *listed("encoding", (encoded(b"transfer-encoding: " + value) for value in WRONG_ENCODINGS)),
    *listed("encodings", (
        chunked(chunk(BODY), headers=(CHUNKED,)),
        chunked(chunk(BODY), headers=(b"transfer-encoding: identity",)),
        encoded(b"transfer-encoding : chunked"), encoded(b"transfer-encoding\t: chunked"),
        encoded(b"transfer-encoding:\r\n chunked"), good(b"x: y\r\n transfer-encoding: chunked"),
        encoded(CHUNKED, line=b"POST /v1/completions HTTP/1.0"),
    )),
)  # fmt: skip

WRONG_SIZES: Final = (
    b"zz", b"-1a", b"+1a", b"0x1a", b" 1a", b"", b";a", b"1000000000000001a0", b"1_a", b"1\ra",
    b"ffffffffffffffffff",
)  # fmt: skip
CHUNKS: Final = (
    *served("chunk", chunked(chunk(BODY, extension=b";a=b")),
            chunked(chunk(BODY, extension=b';a="b"')), chunked(chunk(BODY, size=b"0000001A")),
            chunked(chunk(BODY, extension=b";" + LONG))),
    *listed("chunk-size", (chunked(chunk(BODY, size=size)) for size in WRONG_SIZES)),
    *listed("chunk-end", (
        chunked(b"1a\n" + BODY + b"\r\n"), chunked(b"1a\r" + BODY + b"\r\n"),
        chunked(b"1a\r\n" + BODY + b"\n"), chunked(b"1a\r\n" + BODY),
        chunked(b"5\r\n" + BODY + b"\r\n"), chunked(b"1a;a\n" + BODY + b"\r\n"),
        chunked(chunk(BODY, extension=b";\x00")),
    )),
    *listed("trailer", (chunked(chunk(BODY), end=end) for end in (
        b"0\n\n", b"0\r\n\n" + HIDDEN, b"0\r\ncontent-length: 5\r\n\r\n" + HIDDEN,
        b"0\r\n" + CHUNKED + b"\r\n\r\n", b"0\r\nx: y\n\r\n",
    ))),
    *served("harmless-trailer", *(
        chunked(chunk(BODY), end=b"0\r\n" + name + b": x\r\n\r\n")
        for name in (b"x-trailer", b"authorization")
    )),
    *refused("trailer-cannot-bring-the-key", 401, "invalid_api_key",
             post(chunk(BODY) + b"0\r\n" + AUTH + b"\r\n\r\n", CHUNKED, length=b"")),
    ended("trailers-overlong", chunked(chunk(BODY), end=b"0\r\nx: " + LONG + b"\r\n\r\n"), 431,
          code="headers_too_large"),
    *refused("chunked-beyond-the-limit", 413, "request_too_large",
             chunked(*[chunk(b"x" * 4096)] * 30)),
    ended("chunked-far-beyond-the-limit", chunked(*[chunk(b"x" * 4096)] * 100), 413,
          code="request_too_large"),
)  # fmt: skip

WRONG_HEADERS: Final = (
    b"x: y\nz: w", b"x: y\ncontent-length: 0", b"x: y\rz: w", b"x: y\rcontent-length: 0", b"x: y\r",
    b"x: y\r\n z", b"x: y\r\n\tz", b"x: a\x00b", b"x\x00y: a", b"x: a\x01b", b"x: a\x7fb", b"xy",
    b": y", b"x y: z", b"x/y: z", b"x\xe9: z", b"x : y",
)  # fmt: skip
WRONG_LINES: Final = (
    b"POST\t/v1/completions HTTP/1.1", b"POST /v1/completions HTTP/1.1 ", b"POST HTTP/1.1",
    b"POST /v1/ completions HTTP/1.1", b"post /v1/completions HTTP/1.1",
    b"PoST /v1/completions HTTP/1.1",
    *(name + b" /v1/completions HTTP/1.1" for name in (
        b"FROB", b"XPOST", b"POSTX", b"DEBUG", b"SETUP")),
    *(b"POST /v1/completions " + version for version in (
        b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/1.10", b"HTTP/11.1",
        b"HTTP/1", b"HTTP/1.", b"http/1.1", b"HTTPS/1.1", b"RTSP/2.0", b"ICE/1.0", b"HTTP/-1.1",
        b"HTTP/1.1x")),
)  # fmt: skip
UPGRADE: Final = (b"connection: Upgrade", b"upgrade: h2c")
HEADS: Final = (
    *listed("header", (good(header) for header in WRONG_HEADERS)),
    *listed("line", (good(line=line) for line in WRONG_LINES)),
    *listed("head", (
        good().replace(b"\r\n", b"\n"), good().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n", 1),
        good().replace(b"\r\n\r\n", b"\r\n\n", 1), good().replace(b"\r\n", b"\r") + b"\r\n\r\n",
        good(host=b" host: proxy"), good(host=b"host : proxy"), b" " + good(),
        good(target=b"/v1/completions\x00"), good(target="/v1/é".encode()),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
        b"GET /v1/models\r\n\r\n", b"POST /v1/completions\r\n\r\n" + BODY,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    )),
    *listed("expects", (good(b"expect: 200-ok"), good(b"expect: 100-continue, x")),
            answers=(417,), code="expectation_failed"),
    *listed("host", (
        good(host=b""), good(b"host: other"), good(b"host: proxy"),
        good(b"host: b", line=b"POST /v1/completions HTTP/1.0"),
    )),
    *served("head-harmless", good("x: é".encode("latin-1")), good(b"x:"), b"\r\n\r\n" + good(),
            good(line=b"POST  /v1/completions HTTP/1.1"),
            good(line=b"POST /v1/completions  HTTP/1.1"), good(host=b"host: evil.example"),
            good(*UPGRADE, b"http2-settings: AAMAAABkAAQAAP__"),
            good(b"connection: Upgrade", b"upgrade: websocket", b"sec-websocket-version: 13",
                 b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="),
            good(b"connection: Upgrade", b"upgrade: TLS/1.0"), good(b"upgrade: h2c"),
            good(b"x-http-method-override: DELETE", b"x-method-override: PUT"),
            good(b"x-original-url: /metrics", b"x-rewrite-url: /metrics",
                 b"x-forwarded-prefix: /.."), good(b"expect: 100-continue"),
            good(b"expect:"), good(b"proxy-authorization: Basic eDp5"),
            # Engines obey some; none is for clients to send (`recorder.ALLOWED_HEADERS`).
            good(b"x-data-parallel-rank: 1", b"x-kv-transfer-params: {}", b"cookie: a=b",
                 b"user-agent: x", b"x-forwarded-for: 1.2.3.4", b"x-session-id: s",
                 b"openai-organization: o", b"te: trailers", b"accept-encoding: gzip",
                 b"range: bytes=0-1", b"if-none-match: *", b"origin: http://x",
                 b"endpoint-load-metrics-format: json\tx"),
            good(b"connection: authorization, content-length")),
    *listed("overlong", (
        good(b"x: " + LONG), good(LONG + b": y"), good(*[b"x%d: y" % i for i in range(9000)]),
        good(target=b"/" + LONG), good(target=b"/v1/completions?" + LONG), good(b"x: " + LONG) * 2,
    ), answers=(431,), code="headers_too_large"),
    ended("target-long-but-allowed", good(target=b"/" + b"x" * 20_000), 404, code="unknown_url"),
    ended("http-1.0-without-host", good(line=b"POST /v1/completions HTTP/1.0", host=b""), 200,
          forwarded=1),
    *listed("method", (*(
        good(line=name + b" /v1/completions HTTP/1.1") for name in (
            b"GET", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"OPTIONS", b"PROPFIND", b"SEARCH",
            b"PURGE")),
        good(b"x-http-method-override: POST", line=b"GET /v1/completions HTTP/1.1"),
    ), answers=(405,), code="method_not_allowed"),
    *refused("method-upgrade", 405, "method_not_allowed", good(
        b"connection: Upgrade", b"upgrade: websocket", line=b"GET /v1/completions HTTP/1.1",
        body=b"", length=b"")),
    answered("method-HEAD", good(line=b"HEAD /v1/completions HTTP/1.1"), 405, head_only=True,
             closed=True),
)  # fmt: skip

WRONG_KEY: Final = post(BODY, b"authorization: Bearer wrong")
EXPECTS: Final = b"expect: 100-continue"
READ: Final = good(line=b"GET /v1/models HTTP/1.1", body=b"", length=b"")
PIPELINES: Final = (
    *early("early", good() * 2, good() + post(BODY), good() + READ + good(),
           good() + good(b"x : y"), chunked(chunk(BODY), headers=UPGRADE) + good(),
           good(*UPGRADE) + HIDDEN),
    answered("unauthorised-then-good", WRONG_KEY + good(), 401, 200, forwarded=1),
    ended("unknown-url-then-good", good(target=b"/metrics") + good(), 404, code="unknown_url"),
    answered("bad-json-then-good", good(body=b"{") + good(), 400, 200, forwarded=1),
    answered("read-only-then-good", READ * 2 + good(), 200, 200, 200, forwarded=1),
    *listed("malformed-then-good", (
        good(b"x : y") + good(), chunked(chunk(BODY, size=b"zz")) + good(),
        good(LENGTH, CHUNKED, body=END, length=b"") + good(), good(*UPGRADE, LENGTH),
        good(*UPGRADE, CHUNKED),
    )),
    ended("read-only-then-malformed", READ + good(b"x : y"), 200, 400, code="invalid_http"),
    *listed("fragment", (good(target=target) for target in (
        b"/v1/completions#", b"/v1/completions#/metrics", b"http://proxy/v1/completions#x"))),
    answered("upgrade-with-an-empty-body-then-good",
             good(*UPGRADE, body=b"", length=b"content-length: 0") + good(), 400, 200, forwarded=1),
    ended("upgrade-hides-in-its-body", good(*UPGRADE, target=b"/v1/none", body=HIDDEN), 404,
             code="unknown_url"),
    answered("upgrades-in-a-row",
             good(*UPGRADE, line=b"GET /v1/models HTTP/1.1", body=b"", length=b"") * 20,
             *(200,) * 20),
    *listed("the-last-one-then-hidden", (request + HIDDEN for request in (
        good(b"connection: close, Upgrade", b"upgrade: h2c"), good(b"connection: close"),
        good(line=b"POST /v1/completions HTTP/1.0"),
    )), answers=(200,), code="", forwarded=1),
    *listed("the-last-one-refused-then-hidden", (
        post(BODY, b"connection: close, Upgrade", b"upgrade: h2c") + HIDDEN,
        post(b"", EXPECTS, length=LENGTH) + HIDDEN, post(BODY, EXPECTS) + HIDDEN,
        post(BODY, EXPECTS) + b"x y z\r\n\r\n", post(BODY, EXPECTS),
    ), answers=(401,), code="invalid_api_key"),
    ended("far-too-large-then-hidden", good(length=b"content-length: 99999999999") + HIDDEN, 413,
          code="request_too_large"),
)  # fmt: skip

NO_KEYS: Final[tuple[tuple[bytes, ...], ...]] = (
    (),
    *((b"authorization:" + value,) for value in (
        b" Bearer\tsk-good", b" sk-good", b" Basic c2stZ29vZA==", b" Bearersk-good",
        b" Bearer sk-good, Bearer sk-other", b" Bearer x, Bearer sk-good",
        b" Bearer sk-good sk-good", b' Bearer "sk-good"', b" Bearer SK-GOOD", b" Bearer sk-goo",
        b" Bearer sk-goodx", b" Bearer ", b"", " Bearer sk-goöd".encode(), b" Bearer \xff\xfe",
        b" Bearer " + b"x" * 20_000, b" Bearer " + b"0" * 64, b" Bearer ' OR '1'='1",
        b" Bearer x' UNION SELECT 1 --")),
    (AUTH, AUTH), (AUTH, b"authorization: Bearer x"), (b"authorization: Bearer x", AUTH),
    (b"cookie: authorization=Bearer sk-good",), (b"proxy-authorization: Bearer sk-good",),
    (b"x-forwarded-authorization: Bearer sk-good",), (b"authorization_: Bearer sk-good",),
    (b"x-forwarded-for: 127.0.0.1", b"x-real-ip: 127.0.0.1"),
    (b"x-partitiond-key: k", b"x-api-key: wrong"), (b"authorization:", AUTH),
    (b"x-api-key: sk-good", b"x-api-key: sk-good"), (AUTH, AUTH, b"x-api-key: sk-good"),
    (b"x-api-key: x", b"authorization: Bearer y"),
)  # fmt: skip
KEYS: Final = (
    *served("key", *(post(BODY, header) for header in (
        b"authorization: bearer sk-good", b"authorization: BEARER sk-good",
        b"AUTHORIZATION: Bearer sk-good", b"authorization:   Bearer   sk-good  "))),
    # Of both headers the key that is one counts, before the other way of sending it.
    *served("both-keys", *(post(BODY, *headers) for headers in (
        (AUTH, b"x-api-key: sk-good"), (AUTH, b"x-api-key: x"),
        (b"x-api-key: sk-good", b"authorization: Bearer x"),
        (b"authorization: Basic c2stZ29vZA==", b"x-api-key: sk-good")))),
    *refused("no-key", 401, "invalid_api_key", *(post(BODY, *headers) for headers in NO_KEYS),
             post(BODY, target=b"/v1/completions?api_key=sk-good&key=sk-good")),
)  # fmt: skip

NO_MODELS: Final = ("other", "m\r\nx: y", "m\x00", "../m", "/run/e.sock", "M")
NO_JSON: Final = (
    b'{"model":"\\ud800","prompt":"x"}', b"[" * 30_000, b"[" * 20_000 + b"]" * 20_000,
    b'{"a":' * 10_000, b'{"model":"m","x":' + b"[" * 99 + b"]" * 99 + b"}", BODY + BODY,
    b'{"model":"m","prompt":"\xff\xfe"}', b'{"model":"m","prompt":"x","a":"\xfe"}',
    b'{"model":"m","prompt":"x","\xfe":1}', b'{"model":"m","n":' + b"9" * 5000 + b"}",
)  # fmt: skip
BODIES: Final = (
    *refused("no-model", 404, "model_not_found", *(
        good(body=json.dumps({"model": name, "prompt": "x"}).encode()) for name in NO_MODELS)),
    *refused("no-json", 400, "invalid_json", *(good(body=body) for body in NO_JSON)),
    *refused("model-list", 400, "invalid_value", good(body=b'{"model":["m"],"prompt":"x"}')),
)  # fmt: skip

ATTACKS: Final = (*LENGTHS, *ENCODINGS, *CHUNKS, *HEADS, *PIPELINES, *KEYS, *BODIES)
