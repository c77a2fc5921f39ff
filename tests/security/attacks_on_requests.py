"""Lists attacks by several requests on one connection, keys in all spellings, and bodies."""

import json
from typing import Final

from tests.security.attack_parts import (
    AUTH,
    BODY,
    CHUNKED,
    END,
    HIDDEN,
    LENGTH,
    Attack,
    answered,
    chunk,
    chunked,
    ended,
    good,
    refused,
    served,
)
from tests.security.wire import post

PIPELINES: Final = (
    answered("two-good-ones", good() * 2, 200, 200, forwarded=2),
    answered(
        "unauthorised-then-good",
        post(BODY, b"authorization: Bearer wrong") + good(),
        401,
        200,
        forwarded=1,
    ),
    answered(
        "good-then-unauthorised", good() + post(BODY), 200, 401, code="invalid_api_key", forwarded=1
    ),
    answered("unknown-url-then-good", good(target=b"/metrics") + good(), 404, 200, forwarded=1),
    Attack("malformed-then-good", good(b"x : y") + good()),
    Attack("malformed-body-then-good", chunked(chunk(BODY, size=b"zz")) + good()),
    answered(
        "upgrade-with-a-chunked-body-then-good",
        chunked(chunk(BODY), headers=(b"connection: Upgrade", b"upgrade: h2c")) + good(),
        200,
        200,
        forwarded=2,
    ),
    answered(
        "upgrade-hides-in-its-body",
        good(b"connection: Upgrade", b"upgrade: h2c", target=b"/v1/none", body=HIDDEN),
        404,
        code="unknown_url",
    ),
    Attack("upgrade-with-two-lengths", good(b"connection: Upgrade", b"upgrade: h2c", LENGTH)),
    Attack(
        "upgrade-with-length-and-encoding", good(b"connection: Upgrade", b"upgrade: h2c", CHUNKED)
    ),
    ended(
        "upgrade-and-close-then-hidden",
        good(b"connection: close, Upgrade", b"upgrade: h2c") + HIDDEN,
        200,
        forwarded=1,
    ),
    ended(
        "upgrade-and-close-refused-then-hidden",
        post(BODY, b"connection: close, Upgrade", b"upgrade: h2c") + HIDDEN,
        401,
        code="invalid_api_key",
    ),
    ended(
        "expectation-refused-then-hidden",
        post(b"", b"expect: 100-continue", length=LENGTH) + HIDDEN,
        401,
        code="invalid_api_key",
    ),
    ended(
        "expectation-refused-then-its-body-then-hidden",
        post(BODY, b"expect: 100-continue") + HIDDEN,
        401,
        code="invalid_api_key",
    ),
    ended(
        "expectation-refused-then-malformed",
        post(BODY, b"expect: 100-continue") + b"x y z\r\n\r\n",
        401,
        code="invalid_api_key",
    ),
    ended(
        "far-too-large-then-hidden",
        good(length=b"content-length: 99999999999") + HIDDEN,
        413,
        code="request_too_large",
    ),
    answered(
        "upgrades-in-a-row",
        good(
            b"connection: Upgrade",
            b"upgrade: h2c",
            line=b"GET /v1/models HTTP/1.1",
            body=b"",
            length=b"",
        )
        * 20,
        *(200,) * 20,
    ),
    Attack("smuggled-then-good", good(LENGTH, CHUNKED, body=END, length=b"") + good()),
    ended(
        "overlong-then-good", good(b"x: " + b"y" * 40_000) + good(), 431, code="headers_too_large"
    ),
    ended("good-then-malformed", good() + good(b"x : y"), forwarded=1),
    answered("bad-json-then-good", good(body=b"{") + good(), 400, 200, forwarded=1),
    ended("connection-close-then-hidden", good(b"connection: close") + HIDDEN, 200, forwarded=1),
    ended(
        "http-1.0-then-hidden",
        good(line=b"POST /v1/completions HTTP/1.0") + HIDDEN,
        200,
        forwarded=1,
    ),
    answered(
        "upgrade-then-hidden",
        good(b"connection: Upgrade", b"upgrade: h2c") + HIDDEN,
        200,
        200,
        forwarded=2,
    ),
    answered(
        "read-only-between-good-ones",
        good() + good(line=b"GET /v1/models HTTP/1.1", body=b"", length=b"") + good(),
        200,
        200,
        200,
        forwarded=2,
    ),
    served("expect-continue", good(b"expect: 100-continue")),
    ended(
        "expect-continue-without-a-key",
        post(BODY, b"expect: 100-continue"),
        401,
        code="invalid_api_key",
    ),
    served("expect-something-else", good(b"expect: 200-ok")),
    served("keys-of-other-hops-are-nothing", good(b"proxy-authorization: Basic eDp5")),
    served("connection-names-a-real-header", good(b"connection: authorization, content-length")),
)


def _keyed(
    name: str, *headers: bytes, ok: bool = False, target: bytes = b"/v1/completions"
) -> Attack:
    data = post(BODY, *headers, target=target)
    return served(name, data) if ok else refused(name, data, 401, "invalid_api_key")


KEYS: Final = (
    _keyed("key-absent"),
    _keyed("key-bearer-lower-case", b"authorization: bearer sk-good", ok=True),
    _keyed("key-bearer-capitals", b"authorization: BEARER sk-good", ok=True),
    _keyed("key-name-capitals", b"AUTHORIZATION: Bearer sk-good", ok=True),
    _keyed("key-spaces-around", b"authorization:   Bearer   sk-good  ", ok=True),
    _keyed("key-tab-between", b"authorization: Bearer\tsk-good"),
    _keyed("key-without-scheme", b"authorization: sk-good"),
    _keyed("key-basic", b"authorization: Basic c2stZ29vZA=="),
    _keyed("key-scheme-joined", b"authorization: Bearersk-good"),
    _keyed("key-comma", b"authorization: Bearer sk-good, Bearer sk-other"),
    _keyed("key-comma-first", b"authorization: Bearer x, Bearer sk-good"),
    _keyed("key-two-words", b"authorization: Bearer sk-good sk-good"),
    _keyed("key-quoted", b'authorization: Bearer "sk-good"'),
    _keyed("key-other-case", b"authorization: Bearer SK-GOOD"),
    _keyed("key-prefix", b"authorization: Bearer sk-goo"),
    _keyed("key-longer", b"authorization: Bearer sk-goodx"),
    _keyed("key-empty", b"authorization: Bearer "),
    _keyed("key-header-empty", b"authorization:"),
    _keyed("key-not-ascii", "authorization: Bearer sk-goöd".encode()),
    _keyed("key-not-utf8", b"authorization: Bearer \xff\xfe"),
    _keyed("key-very-long", b"authorization: Bearer " + b"x" * 20_000),
    _keyed("key-as-its-own-hash", b"authorization: Bearer %s" % (b"0" * 64)),
    _keyed("key-twice-equal", AUTH, AUTH),
    _keyed("key-good-then-bad", AUTH, b"authorization: Bearer x"),
    _keyed("key-bad-then-good", b"authorization: Bearer x", AUTH),
    _keyed("key-in-the-query", target=b"/v1/completions?api_key=sk-good&key=sk-good"),
    _keyed("key-in-a-cookie", b"cookie: authorization=Bearer sk-good"),
    _keyed("key-in-proxy-authorization", b"proxy-authorization: Bearer sk-good"),
    _keyed("key-in-x-forwarded", b"x-forwarded-authorization: Bearer sk-good"),
    _keyed("key-with-underscore", b"authorization_: Bearer sk-good"),
    _keyed("key-sql", b"authorization: Bearer ' OR '1'='1"),
    _keyed("key-sql-union", b"authorization: Bearer x' UNION SELECT 1 --"),
    _keyed("loopback-is-no-key", b"x-forwarded-for: 127.0.0.1", b"x-real-ip: 127.0.0.1"),
    _keyed("internal-header-is-no-key", b"x-partitiond-key: k", b"x-api-key: wrong"),
)


def _body(name: str, payload: object, status: int, code: str) -> Attack:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return refused(name, good(body=body), status, code)


BODIES: Final = (
    _body("model-of-another-key", {"model": "other", "prompt": "x"}, 404, "model_not_found"),
    _body("model-with-line-ends", {"model": "m\r\nx: y", "prompt": "x"}, 404, "model_not_found"),
    _body("model-with-nul", {"model": "m\x00", "prompt": "x"}, 404, "model_not_found"),
    _body("model-as-a-path", {"model": "../m", "prompt": "x"}, 404, "model_not_found"),
    _body("model-as-a-socket", {"model": "/run/e.sock", "prompt": "x"}, 404, "model_not_found"),
    _body("model-other-case", {"model": "M", "prompt": "x"}, 404, "model_not_found"),
    _body("model-surrogate", b'{"model":"\\ud800","prompt":"x"}', 400, "invalid_json"),
    _body("model-list", {"model": ["m"], "prompt": "x"}, 400, "invalid_value"),
    _body("nested-arrays", b"[" * 30_000, 400, "invalid_json"),
    _body("nested-arrays-that-end", b"[" * 20_000 + b"]" * 20_000, 400, "invalid_json"),
    _body("nested-objects", b'{"a":' * 10_000, 400, "invalid_json"),
    _body(
        "nested-inside", b'{"model":"m","x":' + b"[" * 99 + b"]" * 99 + b"}", 400, "invalid_json"
    ),
    _body("not-utf8", b'{"model":"m","prompt":"\xff\xfe"}', 400, "invalid_json"),
    _body("not-utf8-unknown", b'{"model":"m","prompt":"x","a":"\xfe"}', 400, "invalid_json"),
    _body("not-utf8-name", b'{"model":"m","prompt":"x","\xfe":1}', 400, "invalid_json"),
    _body("two-documents", BODY + BODY, 400, "invalid_json"),
    _body("huge-integer", b'{"model":"m","n":' + b"9" * 5000 + b"}", 400, "invalid_json"),
    refused("compressed", good(b"content-encoding: gzip"), 415, "unsupported_media_type"),
    refused(
        "form-of-a-browser",
        good(b"content-type: application/x-www-form-urlencoded", json_type=False),
        415,
        "unsupported_media_type",
    ),
)
