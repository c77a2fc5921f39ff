"""Makes seeded mutations of byte strings: the same seed gives the same bytes."""

import random
from collections.abc import Sequence
from typing import Final

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
