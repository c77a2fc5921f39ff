"""Usage is read only from its own place in an answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.proxy.request.reported_usage import (
    TokenCounts,
    messages_usage,
    openai_usage,
    responses_usage,
)

FORGED = '"usage":{"prompt_tokens":0,"completion_tokens":0,"input_tokens":0,"output_tokens":0}'


def data(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 9}, (7, 9)),
        ({"completion_tokens": 9, "prompt_tokens": 7, "total_tokens": 16}, (7, 9)),
        ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0)),
        ({"prompt_tokens": 7, "completion_tokens": None}, (7, 0)),
        ({"total_tokens": 7}, (7, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 5}, (0, 0)),
        ({"prompt_tokens": 10**400, "completion_tokens": 1}, (10**400, 1)),
    ],
)
def test_usage_in_openais_shape(usage: dict[str, Any], told: tuple[int, int]) -> None:
    assert openai_usage(data({"usage": usage})) == told


@pytest.mark.parametrize(
    "usage",
    [
        1, "x", [], None, {"prompt_tokens": "7"}, {"prompt_tokens": True}, {"prompt_tokens": -7},
        {"prompt_tokens": 7.5},
        {"prompt_tokens": 7, "completion_tokens": []},
    ],
)  # fmt: skip
def test_what_cannot_be_usage_is_none(usage: object) -> None:
    assert openai_usage(data({"usage": usage})) is None
    inside = {"input_tokens": 1, "output_tokens": [usage]}
    assert messages_usage(data({"usage": inside})) is None
    assert responses_usage(data({"response": {"usage": inside}})) is None


@pytest.mark.parametrize("raw", [b"", b"[DONE]", b"[]", b"5", b"{", b'{"usage":{}', b"\xff"])
def test_what_is_no_answer_tells_none(raw: bytes) -> None:
    assert openai_usage(raw) is messages_usage(raw) is responses_usage(raw) is None


def test_a_messages_prompt_has_its_cached_part() -> None:
    usage = {"input_tokens": 1, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10}
    assert messages_usage(data({"message": {"usage": usage}})) == (41, None)
    assert messages_usage(data({"usage": {"output_tokens": 9}})) == (None, 9)


@pytest.mark.parametrize(
    ("tell", "inside"), [(messages_usage, "message"), (responses_usage, "response")]
)
def test_usage_at_the_top_comes_before_usage_inside(
    tell: Callable[[bytes], TokenCounts | None], inside: str
) -> None:
    inner = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    told = {"input_tokens": 3, "output_tokens": 4}
    assert tell(data({inside: inner, "usage": told})) == (3, 4)
    assert tell(data({inside: inner})) == (0, 0)


@given(st.text(max_size=30), st.integers(0, 5))
def test_usage_that_lies_deeper_or_in_a_text_is_not_looked_at(text: str, depth: int) -> None:
    inner: Any = json.loads("{" + FORGED + "}")
    for _ in range(depth):
        inner = [inner, {"x": inner}]
    forged = {
        "user": text + FORGED, "tools": [inner], "metadata": inner, "choices": [inner],
        "output": [inner], "content": [inner], "text": inner,
    }  # fmt: skip
    for answer in (forged, {"usage": None, **forged}):
        assert openai_usage(data(answer)) is None
        assert messages_usage(data({**answer, "message": forged})) is None
        assert responses_usage(data({**answer, "response": forged})) is None
    told = {"input_tokens": 3, "output_tokens": 4}
    assert responses_usage(data({"response": {**forged, "usage": told}, **forged})) == (3, 4)
    assert messages_usage(data({**forged, "usage": told, "more": forged})) == (3, 4)
