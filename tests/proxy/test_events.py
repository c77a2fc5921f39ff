"""The scanner: whatever is sent, only whole events come out, in order, unchanged."""

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.proxy.errors import AttemptError
from partitiond.proxy.events import EventScanner, find_usage
from tests.proxy.scripted import DONE, chat_event, event, text_event

TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_cutting_gives_the_same_stream(texts: list[str], places: list[int]) -> None:
    data = b"".join(text_event("x" + text) for text in texts) + DONE
    scanner = EventScanner(1 << 20)
    out = [scanner.feed(piece) for piece in cut(data, places)]
    assert b"".join(out) == data
    assert all(not piece or piece.endswith(b"\n\n") for piece in out)
    assert scanner.done
    assert not scanner.error
    assert scanner.events == len(texts)


@given(st.text(), st.lists(st.integers(0, 10_000), max_size=10))
def test_a_model_that_writes_our_markers_is_not_taken_at_its_word(
    text: str, places: list[int]
) -> None:
    said = f'data: [DONE]\n\ndata: {{"error": {text}'
    data = text_event("x") + text_event(said) + text_event("y")
    scanner = EventScanner(1 << 20)
    out = b"".join(scanner.feed(piece) for piece in cut(data, places))
    assert out == data
    assert not scanner.done
    assert not scanner.error


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=10))
def test_garbage_is_refused_or_held_never_passed_on_half(data: bytes, places: list[int]) -> None:
    scanner = EventScanner(1 << 20)
    with contextlib.suppress(AttemptError):
        for piece in cut(data, places):
            out = scanner.feed(piece)
            assert not out or out.endswith(b"\n\n")


def test_nothing_comes_out_before_the_first_content() -> None:
    scanner = EventScanner(1 << 20)
    role = chat_event({"role": "assistant", "content": ""})
    assert scanner.feed(role) == b""
    assert not scanner.started
    hello = chat_event({"content": "hello"})
    assert scanner.feed(hello) == role + hello
    assert scanner.started


@pytest.mark.parametrize(
    "delta", [{"content": "x"}, {"tool_calls": [{}]}, {"reasoning_content": "hm"}]
)
def test_content_is_anything_but_the_role(delta: dict[str, object]) -> None:
    scanner = EventScanner(1 << 20)
    assert scanner.feed(chat_event({"role": "assistant", **delta}))


def test_after_an_error_event_nothing_more_comes() -> None:
    scanner = EventScanner(1 << 20)
    error = event({"error": {"message": "x"}})
    first = text_event("a")
    assert scanner.feed(first + error + text_event("b") + DONE) == first + error
    assert scanner.done
    assert json.loads(scanner.error)["error"]["message"] == "x"


def test_usage_is_read_from_the_last_event_only_at_the_end() -> None:
    scanner = EventScanner(1 << 20)
    usage = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
    for piece in (text_event("a"), usage, DONE):
        scanner.feed(piece)
    assert scanner.usage() == (7, 9)
    assert find_usage(b'{"text": "\\"prompt_tokens\\": 1"}') is None


@pytest.mark.parametrize("piece", [b"x" * 100, chat_event({"role": "assistant"})])
def test_what_never_becomes_content_is_bounded(piece: bytes) -> None:
    scanner = EventScanner(1000)

    def feed_without_end() -> None:
        for _ in range(100):
            scanner.feed(piece)

    with pytest.raises(AttemptError):
        feed_without_end()
