"""Holds bodies of the data routes as engines read them, and the same with an error at any depth.

Fields and types are those of vLLM's request models (`vllm/entrypoints`, 0.11 and newer) and of
Anthropic's messages: all that the proxy reads, and of the rest one of each shape. No engine is
asked.
"""

import copy
import json
from typing import Any, Final

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

MODEL: Final = "m"
TEXT: Final = st.sampled_from(["", "Once upon a time", "Zürich \u2603", "a" * 300, "\x00", "{}"])
COUNT: Final = st.integers(0, 64)
SHARE: Final = st.sampled_from([0, 0.5, 1, 0.1 + 0.2])
TOKENS: Final = st.lists(st.integers(0, 50_000), min_size=1, max_size=6)
FLAG: Final = st.booleans()


def _objects(required: dict[str, Strategy], /, **optional: Strategy) -> Strategy:
    return st.fixed_dictionaries(required, optional=optional)


def _lists(of: Strategy, most: int = 3) -> Strategy:
    return st.lists(of, min_size=1, max_size=most)


_SCHEMA: Final = st.just({"type": "object", "properties": {"a": {"type": "string"}}})
_FUNCTION: Final = _objects({"name": st.just("weather")}, description=TEXT, parameters=_SCHEMA)
_TOOLS: Final = _lists(_objects({"type": st.just("function"), "function": _FUNCTION}))
_IMAGE: Final = st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}})
_SOUND: Final = st.just({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})
_PARTS: Final = _lists(st.one_of(_objects({"type": st.just("text"), "text": TEXT}), _IMAGE, _SOUND))
_CALL: Final = st.just(
    {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"a": "b"}'}}
)
_ROLE: Final = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
_MESSAGES: Final = _lists(
    _objects(
        {"role": _ROLE, "content": st.one_of(TEXT, _PARTS, st.none())},
        name=TEXT,
        tool_calls=_lists(_CALL),
        reasoning=TEXT,
    )
)
_STREAM: Final = {
    "stream": FLAG,
    "stream_options": st.one_of(
        st.none(), _objects({"include_usage": FLAG}, continuous_usage_stats=FLAG)
    ),
}
_SAMPLING: Final = {
    "n": st.integers(1, 3),
    "temperature": SHARE,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop": st.one_of(TEXT, _lists(TEXT), st.none()),
    "stop_token_ids": TOKENS,
    "logit_bias": st.dictionaries(st.sampled_from(["1", "50256"]), st.integers(-100, 100)),
    "truncate_prompt_tokens": COUNT,
    "structured_outputs": _objects({}, json=_SCHEMA, regex=TEXT, choice=_lists(TEXT)),
    "priority": st.integers(-5, 5),
    "vllm_xargs": st.dictionaries(TEXT, st.one_of(TEXT, COUNT, _lists(COUNT)), max_size=2),
    "user": TEXT,
    "max_tokens": COUNT,
}
_PROMPT: Final = st.one_of(TEXT, _lists(TEXT), TOKENS, _lists(TOKENS))
_ANSWERS: Final = {"max_completion_tokens": COUNT, "response_format": st.just({"type": "text"})}
_TEXT_INPUT: Final = _lists(_objects({"type": st.just("input_text"), "text": TEXT}))
_RESPONSES: Final = _objects(
    {
        "input": st.one_of(
            TEXT, _lists(_objects({"role": _ROLE, "content": st.one_of(TEXT, _TEXT_INPUT)}))
        )
    },
    stream=FLAG,
    instructions=TEXT,
    max_output_tokens=COUNT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=2),
    previous_response_id=TEXT,
    tools=_TOOLS,
    store=FLAG,
    background=FLAG,
    user=TEXT,
)
_BLOCKS: Final = _lists(
    st.one_of(
        _objects({"type": st.just("text"), "text": TEXT}),
        _objects({"type": st.just("tool_use"), "id": TEXT, "name": TEXT, "input": st.just({})}),
        _objects({"type": st.just("tool_result"), "tool_use_id": TEXT}, content=TEXT),
    )
)
_ANTHROPIC: Final = {
    "messages": _lists(_objects({"role": _ROLE, "content": st.one_of(TEXT, _BLOCKS)}))
}
_ANTHROPIC_OPTIONAL: Final = {
    "system": st.one_of(TEXT, _BLOCKS),
    "tools": _lists(_objects({"name": TEXT, "input_schema": _SCHEMA})),
    "thinking": _objects({"type": st.just("enabled")}, budget_tokens=COUNT),
}
_EMBEDDING: Final = st.one_of(
    _objects({"input": _PROMPT}, dimensions=COUNT, truncate_prompt_tokens=COUNT, user=TEXT),
    _objects({"messages": _MESSAGES}, add_generation_prompt=FLAG, dimensions=COUNT),
)
_TEXTS: Final = st.one_of(TEXT, _lists(TEXT), _objects({"content": _PARTS}))
_SCORE: Final = st.one_of(
    _objects({"text_1": _TEXTS, "text_2": _TEXTS}, truncate_prompt_tokens=COUNT),
    _objects({"queries": _TEXTS, "documents": _TEXTS}),
    _objects({"data_1": _TEXTS, "data_2": _TEXTS}),
)
_RERANK: Final = _objects({"query": _TEXTS, "documents": _lists(_TEXTS)}, top_n=COUNT)

RIGHT: Final[dict[str, Strategy]] = {
    "/v1/completions": _objects(
        {"prompt": _PROMPT}, **_SAMPLING, **_STREAM, best_of=st.integers(1, 3), echo=FLAG,
        logprobs=COUNT,
    ),
    "/v1/chat/completions": _objects(
        {"messages": _MESSAGES}, **_SAMPLING, **_STREAM, **_ANSWERS, tools=_TOOLS, logprobs=FLAG
    ),
    "/v1/chat/completions/batch": _objects(
        {"messages": _lists(_MESSAGES)}, **_SAMPLING, **_ANSWERS, logprobs=FLAG
    ),
    "/v1/responses": _RESPONSES,
    "/v1/messages": _objects(
        {**_ANTHROPIC, "max_tokens": COUNT}, **_ANTHROPIC_OPTIONAL, stream=FLAG, temperature=SHARE
    ),
    "/v1/messages/count_tokens": _objects(_ANTHROPIC, **_ANTHROPIC_OPTIONAL),
    **dict.fromkeys(("/v1/embeddings", "/pooling", "/classify"), _EMBEDDING),
    **dict.fromkeys(("/score", "/v1/score"), _SCORE),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _RERANK),
    "/tokenize": st.one_of(
        _objects({"prompt": TEXT}, add_special_tokens=FLAG),
        _objects({"messages": _MESSAGES}, tools=_TOOLS, chat_template=TEXT),
    ),
    "/detokenize": _objects({"tokens": TOKENS}),
}  # fmt: skip
"""What engines take, by route, without the model."""

READ: Final = (
    "best_of", "data_1", "documents", "include_usage", "input", "max_completion_tokens",
    "max_output_tokens", "max_tokens", "messages", "n", "prompt", "stream", "stream_options",
)  # fmt: skip
"""Fields that mean something on the way to an engine: they are made wrong more often."""


def _nested(depth: int, inside: Any) -> Any:
    for level in range(depth):
        inside = [inside] if level % 2 else {"a": inside}
    return inside


KINDS: Final[tuple[Any, ...]] = (None, True, 0, -1, 2**64, 1.5, "", "a", [], ["a"], {}, {"a": 1})
"""A value of each kind that JSON has, empty and not."""

_WRONG: Final = st.one_of(
    st.sampled_from([None, True, False, "", [], {}, [[]], [{}], {"": None}, [None], "\ud800"]),
    st.sampled_from([-1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**4000)]),
    st.sampled_from([-0.0, 1.5, 1e308, 5e-324, float("nan"), float("inf")]),
    st.sampled_from(["1", "true", "null", "a" * 5_000, "\x00\ufffe", "\U0001f600" * 40]),
    st.builds(_nested, st.sampled_from([3, 40, 200]), st.sampled_from([0, "a"])),
    st.lists(st.one_of(st.integers(), TEXT, st.none(), st.just([])), max_size=4),
    st.dictionaries(TEXT, st.one_of(st.integers(), st.none(), st.just([])), max_size=2),
)


def _place(draw: st.DrawFn, body: dict[str, Any]) -> tuple[Any, Any]:
    """A member or item at any depth, one of few outer ones as often as all that is within it: what
    holds it, and where. An empty holder has the place "x".
    """
    holder: Any = body
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        # A wrong model would never come past the route, and is tried elsewhere.
        keys = [key for key in keys if holder is not body or key != "model"]
        keys += [key for key in keys if key in READ] * 2
        if not keys:
            return holder, "x"
        key = keys[draw(st.integers(0, len(keys) - 1))]
        inner = holder[key]
        # Every third time all of it, else something within.
        if not isinstance(inner, dict | list) or not draw(st.integers(0, 2)):
            return holder, key
        holder = inner


def _wrong(draw: st.DrawFn) -> Any:
    """A value of its own: what was drawn may be changed afterwards."""
    return copy.deepcopy(draw(_WRONG))


@st.composite
def bodies(draw: st.DrawFn, path: str) -> list[bytes]:
    """Bodies of a request: one that is right or has up to two things wrong, each at any depth; then
    the same with one value more replaced by a value of each kind.
    """
    body = {"model": MODEL, **copy.deepcopy(draw(RIGHT[path]))}
    for _ in range(draw(st.integers(0, 2))):
        holder, key = _place(draw, body)
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "N", *READ]))] = _wrong(draw)
        elif how == "add" or (key == "x" and isinstance(holder, list)):
            holder.append(_wrong(draw))
        elif how == "replace" or key == "x":
            holder[key] = _wrong(draw)
        else:
            del holder[key]
    found = [_written(body)]
    holder, key = _place(draw, body)
    if key != "x":
        for value in KINDS:
            holder[key] = value
            found.append(_written(body))
    return found


def _written(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
