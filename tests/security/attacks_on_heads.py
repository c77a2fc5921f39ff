"""Lists attacks by request lines, header lines, hosts, versions, upgrades and methods."""

from typing import Final

from tests.security.attack_parts import BODY, Attack, answered, ended, good, refused, served

LINES: Final = (
    Attack("bare-lf-everywhere", good().replace(b"\r\n", b"\n")),
    Attack("bare-lf-after-one-header", good(b"x: y\nz: w")),
    Attack("bare-lf-hides-a-length", good(b"x: y\ncontent-length: 0")),
    Attack("bare-lf-after-the-request-line", good().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n", 1)),
    Attack("bare-lf-ends-the-head", good().replace(b"\r\n\r\n", b"\r\n\n", 1)),
    Attack("bare-cr-in-a-value", good(b"x: y\rz: w")),
    Attack("bare-cr-hides-a-length", good(b"x: y\rcontent-length: 0")),
    Attack("bare-cr-everywhere", good().replace(b"\r\n", b"\r") + b"\r\n\r\n"),
    Attack("cr-cr-lf", good(b"x: y\r")),
    Attack("folded-header", good(b"x: y\r\n z")),
    Attack("folded-header-tab", good(b"x: y\r\n\tz")),
    Attack("folded-first-header", good(host=b" host: proxy")),
    Attack("nul-in-a-value", good(b"x: a\x00b")),
    Attack("nul-in-a-name", good(b"x\x00y: a")),
    Attack("nul-in-the-target", good(target=b"/v1/completions\x00")),
    Attack("control-byte-in-a-value", good(b"x: a\x01b")),
    Attack("delete-in-a-value", good(b"x: a\x7fb")),
    Attack("header-without-colon", good(b"xy")),
    Attack("header-without-name", good(b": y")),
    Attack("header-name-with-space", good(b"x y: z")),
    Attack("header-name-with-slash", good(b"x/y: z")),
    Attack("header-name-not-ascii", good(b"x\xe9: z")),
    Attack("space-before-colon", good(b"x : y")),
    Attack("space-before-the-host-s-colon", good(host=b"host : proxy")),
    served("obs-text-in-a-value", good("x: é".encode("latin-1"))),
    served("empty-value", good(b"x:")),
    served("empty-lines-before-the-request", b"\r\n\r\n" + good()),
    Attack("space-before-the-request", b" " + good()),
    served("two-spaces-after-the-method", good(line=b"POST  /v1/completions HTTP/1.1")),
    Attack("tab-after-the-method", good(line=b"POST\t/v1/completions HTTP/1.1")),
    served("two-spaces-before-the-version", good(line=b"POST /v1/completions  HTTP/1.1")),
    Attack("space-after-the-version", good(line=b"POST /v1/completions HTTP/1.1 ")),
    Attack("space-in-the-target", good(line=b"POST /v1/ completions HTTP/1.1")),
    Attack("target-not-ascii", good(target="/v1/é".encode())),
    Attack("no-target", good(line=b"POST HTTP/1.1")),
    Attack("tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)),
    Attack("ssh-hello", b"SSH-2.0-OpenSSH_9.0\r\n\r\n"),
    ended("header-line-overlong", good(b"x: " + b"y" * 40_000), 431, code="headers_too_large"),
    ended("header-name-overlong", good(b"x" * 40_000 + b": y"), 431, code="headers_too_large"),
    ended(
        "headers-too-many",
        good(*[b"x%d: y" % i for i in range(9000)]),
        431,
        code="headers_too_large",
    ),
    ended("target-overlong", good(target=b"/" + b"x" * 40_000), 431, code="headers_too_large"),
    ended(
        "query-overlong",
        good(target=b"/v1/completions?" + b"x" * 40_000),
        431,
        code="headers_too_large",
    ),
    refused("target-long-but-allowed", good(target=b"/" + b"x" * 20_000), 404, "unknown_url"),
)

HOSTS: Final = (
    Attack("no-host", good(host=b"")),
    Attack("two-hosts", good(b"host: other")),
    Attack("two-hosts-equal", good(b"host: proxy")),
    served("host-of-nobody", good(host=b"host: evil.example")),
    ended(
        "http-1.0-without-host",
        good(line=b"POST /v1/completions HTTP/1.0", host=b""),
        200,
        forwarded=1,
    ),
    Attack("http-1.0-two-hosts", good(b"host: b", line=b"POST /v1/completions HTTP/1.0")),
)

VERSIONS: Final = (
    Attack("http-0.9", b"GET /v1/models\r\n\r\n"),
    Attack("http-0.9-post", b"POST /v1/completions\r\n\r\n" + BODY),
    *(
        Attack(f"version-{v.decode()}", good(line=b"POST /v1/completions " + v))
        for v in (
            b"HTTP/0.9",
            b"HTTP/1.2",
            b"HTTP/2.0",
            b"HTTP/3.0",
            b"HTTP/9.9",
            b"HTTP/1.10",
            b"HTTP/11.1",
            b"HTTP/1",
            b"HTTP/1.",
            b"http/1.1",
            b"HTTPS/1.1",
            b"RTSP/2.0",
            b"ICE/1.0",
            b"HTTP/-1.1",
            b"HTTP/1.1x",
        )
    ),
    Attack("http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    served(
        "h2c-upgrade-is-not-taken",
        good(
            b"connection: Upgrade, HTTP2-Settings",
            b"upgrade: h2c",
            b"http2-settings: AAMAAABkAAQAAP__",
        ),
    ),
    served(
        "websocket-upgrade-is-not-taken",
        good(
            b"connection: Upgrade",
            b"upgrade: websocket",
            b"sec-websocket-version: 13",
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
    ),
    answered(
        "websocket-upgrade-of-a-get",
        good(
            b"connection: Upgrade",
            b"upgrade: websocket",
            line=b"GET /v1/completions HTTP/1.1",
            body=b"",
            length=b"",
        ),
        405,
        code="method_not_allowed",
    ),
    served("upgrade-to-tls-is-not-taken", good(b"connection: Upgrade", b"upgrade: TLS/1.0")),
    served("upgrade-without-connection", good(b"upgrade: h2c")),
)

_METHODS: Final = {
    b"GET": 405,
    b"PUT": 405,
    b"DELETE": 405,
    b"PATCH": 405,
    b"TRACE": 405,
    b"OPTIONS": 405,
    b"PROPFIND": 405,
    b"SEARCH": 405,
    b"PURGE": 405,
}
METHODS: Final = (
    *(
        refused(
            f"method-{m.decode()}",
            good(line=m + b" /v1/completions HTTP/1.1"),
            status,
            "method_not_allowed",
        )
        for m, status in _METHODS.items()
    ),
    answered("method-HEAD", good(line=b"HEAD /v1/completions HTTP/1.1"), 405, head_only=True),
    Attack("method-lower-case", good(line=b"post /v1/completions HTTP/1.1")),
    Attack("method-mixed-case", good(line=b"PoST /v1/completions HTTP/1.1")),
    Attack("method-unknown", good(line=b"FROB /v1/completions HTTP/1.1")),
    Attack("method-with-prefix", good(line=b"XPOST /v1/completions HTTP/1.1")),
    Attack("method-with-suffix", good(line=b"POSTX /v1/completions HTTP/1.1")),
    Attack("method-debug", good(line=b"DEBUG /v1/completions HTTP/1.1")),
    Attack("method-rtsp", good(line=b"SETUP /v1/completions HTTP/1.1")),
    served(
        "method-override-headers-are-nothing",
        good(b"x-http-method-override: DELETE", b"x-method-override: PUT"),
    ),
    refused(
        "method-override-cannot-make-a-post",
        good(b"x-http-method-override: POST", line=b"GET /v1/completions HTTP/1.1"),
        405,
        "method_not_allowed",
    ),
    served(
        "url-override-headers-are-nothing",
        good(b"x-original-url: /metrics", b"x-rewrite-url: /metrics", b"x-forwarded-prefix: /.."),
    ),
)
