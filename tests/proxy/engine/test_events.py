"""The scanner emits only whole events, in order and unchanged, for any input."""

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.proxy.engine.events import EventScanner
from partitiond.proxy.request.dialects import CHAT, LARGE_BYTES, MESSAGES, RESPONSES
from partitiond.proxy.request.errors import ApiError, AttemptError, in_openai_shape
from tests.proxy.charged_answers import named
from tests.proxy.scripted import DONE, chat_event, event, text_event

TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_cutting_gives_the_same_stream(texts: list[str], places: list[int]) -> None:
    data = b"".join(text_event("x" + text) for text in texts) + DONE
    scanner = EventScanner(CHAT)
    out = [scanner.feed(piece) for piece in cut(data, places)]
    assert b"".join(out) == data
    assert all(not piece or piece.endswith(b"\n\n") for piece in out)
    assert scanner.done
    assert not scanner.error
    assert scanner.output_events == len(texts)


@given(st.text(), st.lists(st.integers(0, 10_000), max_size=10))
def test_a_model_that_writes_our_markers_is_not_taken_at_its_word(
    text: str, places: list[int]
) -> None:
    said = f'data: [DONE]\n\ndata: {{"error": {text}'
    data = text_event("x") + text_event(said) + text_event("y")
    scanner = EventScanner(CHAT)
    out = b"".join(scanner.feed(piece) for piece in cut(data, places))
    assert out == data
    assert not scanner.done
    assert not scanner.error


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=10))
def test_garbage_is_refused_or_held_never_passed_on_half(data: bytes, places: list[int]) -> None:
    scanner = EventScanner(CHAT)
    with contextlib.suppress(AttemptError):
        for piece in cut(data, places):
            out = scanner.feed(piece)
            assert not out or out.endswith(b"\n\n")


ROLE = chat_event({"role": "assistant", "content": ""})
A, B = text_event("a"), text_event("b")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
WORDS = text_event('"prompt_tokens":1,"completion_tokens":2')
ERROR = event({"error": {"message": "x"}})
MESSAGE_START = named(
    "message_start", {"message": {"usage": {"input_tokens": 3, "output_tokens": 0}}}
)
DELTA = named("content_block_delta", {"delta": {"type": "text_delta", "text": "event: message_"}})
MESSAGE_END = named("message_delta", {"usage": {"input_tokens": 3, "output_tokens": 5}})
MESSAGE_END += named("message_stop", {})
MESSAGE_ERROR = named("error", {"error": {"type": "internal_error", "message": "x"}})
CREATED = named("response.created", {"response": {"id": "r"}})
TEXT = named("response.output_text.delta", {"delta": "hi"})
ENDS = [
    named(f"response.{end}", {"response": {"usage": {"input_tokens": 1, "output_tokens": 2}}})
    for end in ("completed", "incomplete", "failed")
]


@pytest.mark.parametrize(
    ("dialect", "fed", "given", "usage", "error"),
    [
        # Nothing comes out before the first content, which is anything but the role.
        (CHAT, [ROLE, A, DONE], [b"", ROLE + A, DONE], None, b""),
        *[
            (CHAT, [first, DONE], [first, DONE], None, b"")
            for first in (
                chat_event({"role": "assistant", "content": "x"}),
                chat_event({"role": "assistant", "tool_calls": [{}]}),
                chat_event({"role": "assistant", "reasoning_content": "hm"}),
            )
        ],
        (CHAT, [A, USAGE, DONE], [A, USAGE, DONE], (7, 9), b""),
        (CHAT, [WORDS + DONE], [WORDS + DONE], None, b""),
        # After an error nothing more does, however it is written.
        *[
            (CHAT, [A, error + B], [A, error], None, error)
            for error in (
                ERROR,
                b'data: { "error" : {"message": "x"}}\n\n',
                b'data:{"id":1,"error":"x"}\n\n',
                b'data: {"object":"error","message":"x","code":400}\n\n',
                b'data: {"object": "error", "message": "x"}\n\n',
            )
        ],
        (
            MESSAGES,
            [MESSAGE_START, DELTA + MESSAGE_ERROR + DELTA],
            [b"", MESSAGE_START + DELTA + MESSAGE_ERROR],
            None,
            MESSAGE_ERROR,
        ),
        (
            MESSAGES,
            [MESSAGE_START + DELTA, MESSAGE_END],
            [MESSAGE_START + DELTA, MESSAGE_END],
            (3, 5),
            b"",
        ),
        *[
            (RESPONSES, [CREATED, TEXT, end], [b"", CREATED + TEXT, end], (1, 2), error)
            for end, error in zip(ENDS, (b"", b"", ENDS[2]), strict=True)
        ],
    ],
)
def test_what_comes_out_of_what_is_fed(
    dialect: Any, fed: list[bytes], given: list[bytes], usage: tuple[int, int] | None, error: bytes
) -> None:
    scanner = EventScanner(dialect)
    assert [scanner.feed(piece) for piece in fed] == given
    assert scanner.done
    assert scanner.error in {error, error[:-2]}
    assert error or scanner.usage == usage


def with_choice(written: bytes, **more: object) -> bytes:
    told = json.loads(written.removeprefix(b"data: "))
    told["choices"][0].update(more)
    return event(told)


PROBABLE = {"tokens": ["x"] * 20, "top_logprobs": [{f"text{n}": -1.5 for n in range(20)}] * 20}
LOGGED = with_choice(B, logprobs=PROBABLE)
NAMED_TOKENS = with_choice(text_event("four words of text"), token_ids=[11, 12, 13, 14])
HELD_TEXT = with_choice(text_event(""), token_ids=[7, 8])
SPOKEN = named("response.output_text.delta", {"delta": "hi", "logprobs": [{"token": "hi"}]})


@pytest.mark.parametrize(
    ("dialect", "fed", "events", "text"),
    [
        (CHAT, [A, B + B, text_event("x" * 500)], 4, 503),
        # Log probabilities are no text, wherever they begin or end,
        (CHAT, [A, *[LOGGED] * 19], 20, 20),
        (CHAT, [LOGGED, A, A], 3, 3),
        (RESPONSES, [CREATED, TEXT, SPOKEN, TEXT], 3, 6),
        # and ids say how many tokens an event holds.
        (CHAT, [A, NAMED_TOKENS, B, HELD_TEXT], 8, 2),
        (CHAT, [HELD_TEXT, NAMED_TOKENS], 6, 0),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_the_output_of_events_is_counted_by_their_text_and_their_tokens(
    *, dialect: Any, fed: list[bytes], events: int, text: int, together: bool
) -> None:
    scanner = EventScanner(dialect)
    out = [scanner.feed(piece) for piece in ([b"".join(fed)] if together else fed)]
    assert b"".join(out) == b"".join(fed)
    assert (scanner.output_events, scanner.text_bytes) == (events, text)


def usage_event(**extra: object) -> bytes:
    numbers = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    return event({"id": "cmpl-1", "choices": [], "usage": numbers, **extra})


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_usage_that_the_client_did_not_ask_for_is_kept_back(places: list[int]) -> None:
    text = text_event("a") + text_event("", "stop")
    scanner = EventScanner(CHAT, hide_usage=True)
    given = [scanner.feed(piece) for piece in cut(text + usage_event() + DONE, places)]
    assert b"".join(given) == text + DONE
    assert scanner.usage == (7, 9)


@pytest.mark.parametrize("piece", [b": ping\n\n", CREATED])
def test_what_never_becomes_content_is_bounded(piece: bytes) -> None:
    scanner = EventScanner(RESPONSES)
    with pytest.raises(AttemptError):
        [scanner.feed(piece * 1000) for _ in range(200)]
    assert not scanner.work_events


def test_an_event_as_large_as_an_answer_comes_out_whole_and_copied_once() -> None:
    """Copying what is held for each of its pieces would take minutes."""
    large = text_event("x" * 2_000_000)
    pieces = [large[at : at + 8] for at in range(0, len(large), 8)]
    scanner = EventScanner(CHAT)
    for piece in pieces[:-1]:
        assert scanner.feed(piece) == b""
    assert scanner.held_bytes == len(large) - len(pieces[-1])
    assert scanner.feed(pieces[-1] + A) == large + A
    assert (scanner.held_bytes, scanner.output_events) == (0, 2)
    assert [scanner.feed(A[:-1]), scanner.feed(A[-1:])] == [b"", A]


def test_events_that_repeat_a_large_request_are_held_back_and_counted() -> None:
    large = named("response.created", {"response": {"instructions": "x" * 1_000_000}})
    scanner = EventScanner(RESPONSES)
    assert [scanner.feed(large) for _ in range(3)] == [b""] * 3
    assert scanner.held_bytes == 3 * len(large)
    assert scanner.feed(TEXT) == 3 * large + TEXT
    assert not scanner.held_bytes
    many = EventScanner(RESPONSES)
    [many.feed(CREATED) for _ in range(64)]
    with pytest.raises(AttemptError, match="without any content"):
        many.feed(large + large)


def test_tokens_that_are_held_back_are_events_that_are_kept_within_a_bound() -> None:
    scanner = EventScanner(CHAT)
    out = [scanner.feed(100 * ROLE) for _ in range(100)]
    assert not any(out[: LARGE_BYTES // (100 * len(ROLE))])
    assert b"".join(out) == 10_000 * ROLE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "not_found_error"), (401, "authentication_error"), (503, "overloaded_error"),
     (502, "api_error")],
)  # fmt: skip
def test_errors_of_messages_have_anthropics_types_and_openais_fields(
    status: int, kind: str
) -> None:
    body = json.loads(MESSAGES.error_body(ApiError(status, "told", param="model", code="x")))
    assert body == {
        "type": "error",
        "error": {"message": "told", "type": kind, "param": "model", "code": "x"},
    }


@pytest.mark.parametrize("body", [b'{"detail":""}', b'{"error":{"message":""}}', b"{}", b"", b"[]"])
def test_an_engines_wordless_complaint_is_put_into_words(body: bytes) -> None:
    told = json.loads(in_openai_shape(400, body))["error"]
    assert told["message"] == "The engine answered with status 400."
