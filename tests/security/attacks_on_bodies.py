"""Lists attacks on the end of a body: lengths, transfer encodings, chunks and trailers."""

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

LENGTHS: Final = (
    Attack("length-and-encoding", good(LENGTH, CHUNKED, body=chunk(BODY) + END, length=b"")),
    Attack("encoding-and-length", good(CHUNKED, LENGTH, body=chunk(BODY) + END, length=b"")),
    Attack(
        "length-that-hides-behind-encoding",
        good(b"content-length: 5", CHUNKED, body=END + HIDDEN, length=b""),
    ),
    Attack("two-lengths-equal", good(LENGTH)),
    Attack("two-lengths-different", good(b"content-length: 5", body=BODY + HIDDEN)),
    Attack("length-zero-then-true-one", good(b"content-length: 0", body=BODY)),
    Attack("length-list", good(length=b"content-length: 26, 26")),
    Attack("length-plus", good(length=b"content-length: +26")),
    Attack("length-minus", good(length=b"content-length: -26")),
    Attack("length-minus-zero", good(length=b"content-length: -0")),
    Attack("length-hex", good(length=b"content-length: 0x1a")),
    Attack("length-spaces-inside", good(length=b"content-length: 2 6")),
    Attack("length-float", good(length=b"content-length: 26.0")),
    Attack("length-underscore", good(length=b"content-length: 2_6")),
    Attack("length-exponent", good(length=b"content-length: 2e1")),
    Attack("length-empty", good(length=b"content-length: ")),
    Attack("length-arabic-digits", good(length="content-length: ٢٦".encode())),
    Attack("length-superscript", good(length=b"content-length: 2\xb2")),
    Attack("length-beyond-64-bits", good(length=b"content-length: 18446744073709551642")),
    Attack("length-very-long", good(length=b"content-length: " + b"9" * 1000)),
    Attack("length-tab-vertical", good(length=b"content-length: \x0b26")),
    served("length-with-allowed-spaces", good(length=b"content-length: \t 26 \t")),
    served("length-with-leading-zeros", good(length=b"content-length: 00000026")),
    ended("length-too-short-for-the-body", good(body=BODY + b"x" * 4, length=LENGTH), forwarded=1),
    refused("no-length-and-no-body", good(body=b"", length=b""), 400, "invalid_json"),
    refused(
        "length-beyond-the-limit",
        good(body=b"", length=b"content-length: 99999999999"),
        413,
        "request_too_large",
        closed=True,
    ),
    answered("body-of-a-get", good(line=b"GET /v1/models HTTP/1.1", body=HIDDEN), 200),
    refused(
        "hidden-in-the-body-of-a-refused-route",
        good(target=b"/v1/none", body=HIDDEN),
        404,
        "unknown_url",
    ),
    refused(
        "hidden-in-the-body-of-a-wrong-type",
        good(b"content-type: text/plain", body=HIDDEN, json_type=False),
        415,
        "unsupported_media_type",
    ),
    refused(
        "hidden-in-an-unauthorised-body",
        post(HIDDEN, b"authorization: Bearer wrong"),
        401,
        "invalid_api_key",
    ),
)

ENCODINGS: Final = (
    served("chunked", chunked(chunk(BODY))),
    served("chunked-byte-by-byte", chunked(*(chunk(bytes([b])) for b in BODY))),
    served(
        "chunked-in-capitals",
        good(b"Transfer-Encoding: CHUNKED", body=chunk(BODY) + END, length=b""),
    ),
    *(
        Attack(
            f"encoding-{name}",
            good(b"transfer-encoding: " + value, body=chunk(BODY) + END, length=b""),
        )
        for name, value in {
            "chunked-then-identity": b"chunked, identity",
            "identity": b"identity",
            "x-prefix": b"xchunked",
            "suffix": b"chunkedx",
            "parameter": b"chunked;q=0.5",
            "quoted": b'"chunked"',
            "vertical-tab": b"\x0bchunked",
            "nul": b"chunked\x00",
            "empty": b"",
            "cow": b"cow",
            "gzip": b"gzip",
            "chunked-twice": b"chunked, chunked",
            "identity-then-chunked": b"identity, chunked",
            "gzip-then-chunked": b"gzip, chunked",
            "leading-comma": b", chunked",
        }.items()
    ),
    Attack("encoding-header-twice", chunked(chunk(BODY), headers=(CHUNKED,))),
    Attack(
        "encoding-header-twice-identity",
        chunked(chunk(BODY), headers=(b"transfer-encoding: identity",)),
    ),
    Attack(
        "encoding-space-before-colon",
        good(b"transfer-encoding : chunked", body=chunk(BODY) + END, length=b""),
    ),
    Attack(
        "encoding-tab-before-colon",
        good(b"transfer-encoding\t: chunked", body=chunk(BODY) + END, length=b""),
    ),
    Attack("length-space-before-colon", good(length=b"content-length : 26")),
    Attack(
        "encoding-folded",
        good(b"transfer-encoding:\r\n chunked", body=chunk(BODY) + END, length=b""),
    ),
    Attack("encoding-as-a-fold", good(b"x: y\r\n transfer-encoding: chunked")),
    served("encoding-with-underscore-is-another-header", good(b"transfer_encoding: chunked")),
    Attack(
        "encoding-with-http-1.0",
        good(CHUNKED, line=b"POST /v1/completions HTTP/1.0", body=chunk(BODY) + END, length=b""),
    ),
)

CHUNKS: Final = (
    served("chunk-extension", chunked(chunk(BODY, extension=b";a=b"))),
    served("chunk-extension-quoted", chunked(chunk(BODY, extension=b';a="b"'))),
    served("chunk-size-leading-zeros", chunked(chunk(BODY, size=b"0000001A"))),
    *(
        Attack(f"chunk-size-{name}", chunked(chunk(BODY, size=size)))
        for name, size in {
            "no-hex": b"zz",
            "minus": b"-1a",
            "plus": b"+1a",
            "prefix": b"0x1a",
            "space-before": b" 1a",
            "empty": b"",
            "semicolon-only": b";a",
            "beyond-64-bits": b"1000000000000001a0",
            "minus-one-as-unsigned": b"ffffffffffffffffff",
            "underscore": b"1_a",
            "cr-inside": b"1\ra",
        }.items()
    ),
    Attack("chunk-size-bare-lf", chunked(b"1a\n" + BODY + b"\r\n")),
    Attack("chunk-size-bare-cr", chunked(b"1a\r" + BODY + b"\r\n")),
    Attack("chunk-data-bare-lf", chunked(b"1a\r\n" + BODY + b"\n")),
    Attack("chunk-data-without-end", chunked(b"1a\r\n" + BODY)),
    Attack("chunk-data-longer-than-size", chunked(b"5\r\n" + BODY + b"\r\n")),
    Attack("chunk-extension-bare-lf", chunked(b"1a;a\n" + BODY + b"\r\n")),
    Attack("chunk-extension-nul", chunked(chunk(BODY, extension=b";\x00"))),
    Attack("last-chunk-bare-lf", chunked(chunk(BODY), end=b"0\n\n")),
    Attack("last-chunk-bare-lf-hides", chunked(chunk(BODY), end=b"0\r\n\n" + HIDDEN)),
    served("trailer", chunked(chunk(BODY), end=b"0\r\nx-trailer: 1\r\n\r\n")),
    served("trailer-authorization", chunked(chunk(BODY), end=b"0\r\nauthorization: x\r\n\r\n")),
    refused(
        "trailer-cannot-bring-the-key",
        post(chunk(BODY) + b"0\r\n" + AUTH + b"\r\n\r\n", CHUNKED, length=b""),
        401,
        "invalid_api_key",
    ),
    Attack("trailer-length", chunked(chunk(BODY), end=b"0\r\ncontent-length: 5\r\n\r\n" + HIDDEN)),
    Attack("trailer-encoding", chunked(chunk(BODY), end=b"0\r\n" + CHUNKED + b"\r\n\r\n")),
    Attack("trailer-bare-lf", chunked(chunk(BODY), end=b"0\r\nx: y\n\r\n")),
    ended(
        "trailers-overlong",
        chunked(chunk(BODY), end=b"0\r\nx: " + b"y" * 40_000 + b"\r\n\r\n"),
        431,
        code="headers_too_large",
    ),
    served(
        "chunk-extension-long-but-kept-nowhere",
        chunked(chunk(BODY, extension=b";" + b"a" * 40_000)),
    ),
    refused(
        "chunked-beyond-the-limit", chunked(*[chunk(b"x" * 4096)] * 30), 413, "request_too_large"
    ),
    refused(
        "chunked-far-beyond-the-limit",
        chunked(*[chunk(b"x" * 4096)] * 100),
        413,
        "request_too_large",
        closed=True,
    ),
)
