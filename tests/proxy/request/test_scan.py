"""Little is built of any body, whatever its bytes: more is refused while it comes."""

import json
import tracemalloc
from typing import Any

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.requests import fitted, parse_request
from partitiond.proxy.request.routes import BY_PATH
from partitiond.proxy.request.scan import MAX_NESTING, PIECE_BYTES, ScannedBody
from tests.proxy.charged_answers import CHATS, COMPLETIONS, POOLING
from tests.proxy.conftest import Make, error_of, post
from tests.proxy.virtual import RawClient

SIZE = 4 << 20
TOO_MUCH, WRONG, NO_JSON = "too_many_values", "invalid_value", "invalid_json"


def scanned(*pieces: bytes) -> tuple[str, bytes]:
    """The code of the refusal, and the whole body."""
    body = ScannedBody()
    for piece in pieces:
        body.add(piece)
    whole = body.take()
    return (body.refusal.code or "" if body.refusal else ""), whole


def filled(unit: bytes, name: bytes = b"x", size: int = SIZE) -> bytes:
    """So many bytes with a list of these."""
    head = b'{"model":"m","%b":[' % name
    return head + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


def text(unit: bytes) -> bytes:
    return b'{"model":"m","prompt":"%b"}' % (unit * (SIZE // len(unit)))


BODIES: dict[str, tuple[bytes, str]] = {
    "empty prompts": (filled(b"[]", b"prompt"), TOO_MUCH),
    "no more empty prompts than the scan allows": (filled(b"[]", b"prompt", 250_000), WRONG),
    "deep prompts": (filled(b"[" * 60 + b"]" * 60, b"prompt"), TOO_MUCH),
    "deep alternation": (filled(b'[{"":' * 30 + b"}]" * 30), TOO_MUCH),
    "empty objects": (filled(b"{}", size=300_000), TOO_MUCH),
    "empty texts": (filled(b'""', b"prompt"), TOO_MUCH),
    "literals": (filled(b"null"), TOO_MUCH),
    "fractions": (filled(b"1.5", b"prompt"), TOO_MUCH),
    "small messages": (filled(b'{"role":"user"}', b"messages"), TOO_MUCH),
    "fields": (b'{"model":"m"' + b',"a":1' * 60_000 + b"}", TOO_MUCH),
    "token ids": (filled(b"1", b"prompt", 2_400_000), TOO_MUCH),
    "a million token ids": (filled(b"12345", b"prompt", 6_000_000), ""),
    "token ids and a text": (filled(b"12345", b"prompt", 6_000_000)[:-2] + b',"x"]}', WRONG),
    "token ids as a name": (filled(b"12345", b"model", 6_000_000), WRONG),
    "token ids as a limit": (filled(b"12345", b"max_tokens", 6_000_000), WRONG),
    "token ids as options": (filled(b"12345", b"stream_options", 6_000_000), WRONG),
    "token ids as documents": (filled(b"12345", b"documents", 6_000_000), WRONG),
    "token ids that mean nothing": (filled(b"12345", b"x", 6_000_000), ""),
    "plain text": (text(b"hello "), ""),
    "escaped quotes": (text(b'\\"ab'), ""),
    "escaped escapes": (text(b"\\\\"), TOO_MUCH),
    "escaped text": (text(b"\\u4e2d\\n"), ""),
    "Chinese": (text("中".encode()), ""),
    "no UTF-8": (text(b"hello \xff"), NO_JSON),
    "half a character": (text(b"hello ")[:-3] + b'\xe4"}', NO_JSON),
    "quotes": (text(b'"'), TOO_MUCH),
    "backslashes": (b"\\" * SIZE, TOO_MUCH),
    "whitespace": (b'{"model":"m","x":[' + b" \n" * (SIZE // 2) + b"]}", TOO_MUCH),
    "a long number": (b'{"model":"m","n":' + b"9" * SIZE + b"}", NO_JSON),
    "brackets": (b"[" * SIZE, NO_JSON),
    "closing brackets": (b"]" * SIZE, TOO_MUCH),
    "zeros": (b"\0" * SIZE, TOO_MUCH),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_what_is_built_of_a_body_is_less_than_the_body(name: str) -> None:
    """Lists, objects and numbers take ten times their bytes, and the event loop's time."""
    data, code = BODIES[name]
    path = {"small messages": CHATS.path, "token ids as documents": POOLING[-1].path}.get(
        name, COMPLETIONS.path
    )
    route, model = BY_PATH[path], ModelRoute("m", ModelAvailability.SERVING, "other")
    pieces = [data[at : at + 256_000] for at in range(0, len(data), 256_000)]
    tracemalloc.start()
    body = ScannedBody()
    for piece in pieces:
        body.add(piece)
    whole = body.take()
    options = ProxyOptions()
    read = body.refusal or parse_request(whole, route.measure, options)
    if not isinstance(read, ApiError):
        sent = fitted(whole, read, model, route, options=options, limits=[])
        assert not isinstance(sent, ApiError)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (read.code if isinstance(read, ApiError) else "") == code
    assert most < 4 * len(data) + 2 * SIZE
    assert code != TOO_MUCH or len(whole) < 600_000, "it is not kept"


@pytest.mark.parametrize(
    ("opens", "closes", "levels"),
    [
        (b"[", b"]", 1),
        (b'{"a":', b"}", 1),
        (b'{"[\\"":[', b"]}", 2),
        (b'[ "]\\\\" ,\n{"{":', b"}]", 2),
    ],
)
def test_a_body_is_as_deep_as_its_brackets_outside_of_strings(
    opens: bytes, closes: bytes, levels: int
) -> None:
    times = MAX_NESTING // levels
    for inner, deeper, code in ((b"1", 0, ""), (b"[]", 0, NO_JSON), (b"1", 1, NO_JSON)):
        data = opens * (times + deeper) + inner + closes * (times + deeper)
        json.loads(data)
        assert scanned(data) == (code, data)


ODD = b'\\\\\\"' + b"[" * 70 + b'\\\\\\\\\\"{\\n' + "é中".encode() + b'\\"\\\\'


def test_a_string_is_one_wherever_its_body_is_cut() -> None:
    """Between a backslash and what it escapes, within a character, and anywhere else."""
    fill = b"x" * (PIECE_BYTES + 1)
    whole = b'{"model":"m","prompt":"' + fill + ODD + fill + b'","x":["","\\"",1]}'
    deep = whole[:-2] + b"," + b"[" * 64 + b"]" * 64 + b"]}"
    json.loads(whole)
    json.loads(deep)
    for at in range(whole.index(ODD) - 1, whole.index(ODD) + len(ODD) + 2):
        assert scanned(whole[:at], whole[at:]) == ("", whole)
        assert scanned(deep[:at], deep[at:])[0] == NO_JSON
    half = b"[" * 33 + b" " * PIECE_BYTES
    assert [scanned(half)[0], scanned(half, half)[0]] == ["", NO_JSON]


@pytest.mark.parametrize("more", [0, 2 * PIECE_BYTES])
def test_a_byte_order_mark_is_not_a_part_of_the_body(more: int) -> None:
    """Some editors and shells write one, and engines skip it."""
    data = b'{"model":"m","prompt":"%b"}' % (b"x" * more)
    assert scanned(b"\xef\xbb\xbf" + data) == ("", data)
    assert scanned(data) == ("", data)


async def test_a_body_is_scanned_while_it_comes(make: Make) -> None:
    proxy, engine = await make.both()
    client = await RawClient.to(proxy.port)
    data = post(filled(b"[]", b"prompt", 2_000_000))
    client.send(data[:-1])

    def refused() -> bool:
        lane: Any = proxy.lanes()[0]
        return lane.request is not None and lane.request._body.refusal is not None

    await proxy.until(refused)
    client.send(data[-1:])
    assert b'"too_many_values"' in await client.until(b"}}")
    assert error_of(await proxy.complete()) == (200, "")
    assert len(engine.received) == 1


def test_pieces_of_a_byte_or_two_take_little_more_than_the_body() -> None:
    body, pieces = ScannedBody(), [b"%02d" % (n % 90) for n in range(8192)]
    tracemalloc.start()
    for piece in pieces:
        body.add(bytes(bytearray(piece)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 3 * 2 * len(pieces)
    assert body.take() == b"".join(pieces)


def test_a_letter_may_come_in_two_pieces_of_which_only_the_first_is_large() -> None:
    body = b'{"model":"m","x":"%b"}' % ("é".encode() * PIECE_BYTES)
    assert scanned(body[:-3], body[-3:]) == ("", body)
