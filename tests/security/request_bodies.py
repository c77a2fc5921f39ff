"""Holds bodies of the data routes as engines read them, and the same with an error at any depth.

Fields and types are those of vLLM's request models (`vllm/entrypoints`, 0.11 and newer) and of
Anthropic's messages, as far as they are known; no engine is asked.
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


_SCHEMA: Final = _objects(
    {"type": st.just("object")},
    properties=st.dictionaries(st.sampled_from("ab"), st.just({"type": "string"})),
    required=st.just(["a"]),
)
_FUNCTION: Final = _objects(
    {"name": st.just("weather")}, description=TEXT, parameters=_SCHEMA, strict=FLAG
)
_TOOL: Final = _objects({"type": st.just("function"), "function": _FUNCTION})
_PART: Final = st.one_of(
    _objects({"type": st.just("text"), "text": TEXT}),
    _objects(
        {
            "type": st.just("image_url"),
            "image_url": _objects({"url": st.just("data:image/png;base64,AA==")}, detail=TEXT),
        }
    ),
    _objects(
        {
            "type": st.just("input_audio"),
            "input_audio": st.just({"data": "AA==", "format": "wav"}),
        }
    ),
)
_CALL: Final = _objects(
    {
        "id": st.just("call-1"),
        "type": st.just("function"),
        "function": st.just({"name": "weather", "arguments": '{"a": "b"}'}),
    }
)
_MESSAGE: Final = _objects(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.one_of(TEXT, _lists(_PART), st.none()),
    },
    name=TEXT,
    tool_calls=_lists(_CALL),
    tool_call_id=TEXT,
    reasoning=TEXT,
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
    "top_p": SHARE,
    "top_k": st.integers(-1, 50),
    "min_p": SHARE,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop": st.one_of(TEXT, _lists(TEXT), st.none()),
    "stop_token_ids": TOKENS,
    "bad_words": _lists(TEXT),
    "presence_penalty": SHARE,
    "frequency_penalty": SHARE,
    "repetition_penalty": SHARE,
    "logit_bias": st.dictionaries(st.sampled_from(["1", "50256"]), st.integers(-100, 100)),
    "min_tokens": COUNT,
    "ignore_eos": FLAG,
    "skip_special_tokens": FLAG,
    "allowed_token_ids": TOKENS,
    "truncate_prompt_tokens": COUNT,
    "structured_outputs": _objects({}, json=_SCHEMA, regex=TEXT, choice=_lists(TEXT)),
    "priority": st.integers(-5, 5),
    "cache_salt": TEXT,
    "vllm_xargs": st.dictionaries(TEXT, st.one_of(TEXT, COUNT, _lists(COUNT)), max_size=2),
    "kv_transfer_params": st.dictionaries(TEXT, TEXT, max_size=1),
    "user": TEXT,
    "request_id": TEXT,
}
_FORMAT: Final = st.one_of(
    st.just({"type": "text"}),
    _objects(
        {
            "type": st.just("json_schema"),
            "json_schema": _objects({"name": TEXT, "schema": _SCHEMA}, strict=FLAG),
        }
    ),
)
_PROMPT: Final = st.one_of(TEXT, _lists(TEXT), TOKENS, _lists(TOKENS))
_COMPLETION: Final = _objects(
    {"prompt": _PROMPT},
    **_SAMPLING,
    **_STREAM,
    max_tokens=COUNT,
    best_of=st.integers(1, 3),
    echo=FLAG,
    suffix=TEXT,
    logprobs=st.integers(0, 5),
    prompt_logprobs=st.integers(-1, 5),
    response_format=_FORMAT,
)
_CHAT: Final = _objects(
    {"messages": _lists(_MESSAGE)},
    **_SAMPLING,
    **_STREAM,
    max_tokens=COUNT,
    max_completion_tokens=COUNT,
    tools=_lists(_TOOL),
    tool_choice=st.one_of(
        st.sampled_from(["auto", "none", "required"]),
        st.just({"type": "function", "function": {"name": "weather"}}),
    ),
    parallel_tool_calls=FLAG,
    response_format=_FORMAT,
    logprobs=FLAG,
    top_logprobs=st.integers(0, 5),
    reasoning_effort=st.sampled_from(["low", "high"]),
    chat_template=TEXT,
    chat_template_kwargs=st.dictionaries(TEXT, st.one_of(TEXT, FLAG), max_size=2),
    documents=_lists(st.dictionaries(TEXT, TEXT, max_size=2)),
    add_generation_prompt=FLAG,
    mm_processor_kwargs=st.dictionaries(TEXT, COUNT, max_size=1),
)
_BATCH: Final = _objects(
    {"messages": _lists(_lists(_MESSAGE))},
    **_SAMPLING,
    max_tokens=COUNT,
    max_completion_tokens=COUNT,
    response_format=_FORMAT,
    logprobs=FLAG,
    top_logprobs=st.integers(0, 5),
    add_generation_prompt=FLAG,
)
_RESPONSES: Final = _objects(
    {
        "input": st.one_of(
            TEXT,
            _lists(
                _objects(
                    {
                        "role": st.sampled_from(["user", "assistant", "system"]),
                        "content": st.one_of(
                            TEXT, _lists(_objects({"type": st.just("input_text"), "text": TEXT}))
                        ),
                    },
                    type=st.just("message"),
                )
            ),
        )
    },
    stream=FLAG,
    instructions=TEXT,
    max_output_tokens=COUNT,
    max_tool_calls=COUNT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=2),
    previous_response_id=TEXT,
    reasoning=_objects({}, effort=TEXT, summary=TEXT),
    text=_objects({"format": _FORMAT}),
    tools=_lists(_objects({"type": st.just("function"), "name": TEXT, "parameters": _SCHEMA})),
    tool_choice=st.sampled_from(["auto", "none", "required"]),
    store=FLAG,
    background=FLAG,
    include=_lists(TEXT),
    temperature=SHARE,
    top_p=SHARE,
    truncation=st.sampled_from(["auto", "disabled"]),
    user=TEXT,
)
_BLOCK: Final = st.one_of(
    _objects({"type": st.just("text"), "text": TEXT}),
    _objects(
        {
            "type": st.just("tool_use"),
            "id": TEXT,
            "name": TEXT,
            "input": st.dictionaries(TEXT, TEXT, max_size=1),
        }
    ),
    _objects({"type": st.just("tool_result"), "tool_use_id": TEXT}, content=TEXT, is_error=FLAG),
)
_MESSAGES_REQUIRED: Final = {
    "messages": _lists(
        _objects(
            {
                "role": st.sampled_from(["user", "assistant"]),
                "content": st.one_of(TEXT, _lists(_BLOCK)),
            }
        )
    )
}
_MESSAGES_OPTIONAL: Final = {
    "system": st.one_of(TEXT, _lists(_BLOCK)),
    "tools": _lists(_objects({"name": TEXT, "input_schema": _SCHEMA}, description=TEXT)),
    "tool_choice": _objects({"type": st.sampled_from(["auto", "any", "tool", "none"])}, name=TEXT),
    "thinking": _objects({"type": st.just("enabled")}, budget_tokens=COUNT),
}
_MESSAGES: Final = _objects(
    {**_MESSAGES_REQUIRED, "max_tokens": COUNT},
    **_MESSAGES_OPTIONAL,
    stream=FLAG,
    stop_sequences=_lists(TEXT),
    temperature=SHARE,
    top_k=COUNT,
    top_p=SHARE,
    metadata=_objects({}, user_id=TEXT),
)
_EMBEDDING: Final = st.one_of(
    _objects(
        {"input": _PROMPT},
        encoding_format=st.sampled_from(["float", "base64", "bytes"]),
        dimensions=COUNT,
        truncate_prompt_tokens=st.integers(-1, 64),
        normalize=FLAG,
        priority=COUNT,
        user=TEXT,
    ),
    _objects({"messages": _lists(_MESSAGE)}, add_generation_prompt=FLAG, dimensions=COUNT),
)
_TEXTS: Final = st.one_of(TEXT, _lists(TEXT), _objects({"content": _lists(_PART)}))
_SCORE: Final = st.one_of(
    _objects({"text_1": _TEXTS, "text_2": _TEXTS}, truncate_prompt_tokens=COUNT, softmax=FLAG),
    _objects({"queries": _TEXTS, "documents": _TEXTS}, activation=FLAG),
    _objects({"data_1": _TEXTS, "data_2": _TEXTS}),
)
_RERANK: Final = _objects(
    {"query": _TEXTS, "documents": _lists(_TEXTS)}, top_n=COUNT, truncate_prompt_tokens=COUNT
)
_TOKENIZE: Final = st.one_of(
    _objects({"prompt": TEXT}, add_special_tokens=FLAG, return_token_strs=FLAG),
    _objects({"messages": _lists(_MESSAGE)}, tools=_lists(_TOOL), chat_template=TEXT),
)

RIGHT: Final[dict[str, Strategy]] = {
    "/v1/completions": _COMPLETION,
    "/v1/chat/completions": _CHAT,
    "/v1/chat/completions/batch": _BATCH,
    "/v1/responses": _RESPONSES,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _objects(_MESSAGES_REQUIRED, **_MESSAGES_OPTIONAL),
    "/v1/embeddings": _EMBEDDING,
    "/pooling": _EMBEDDING,
    "/classify": _EMBEDDING,
    "/score": _SCORE,
    "/v1/score": _SCORE,
    "/rerank": _RERANK,
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/tokenize": _TOKENIZE,
    "/detokenize": _objects({"tokens": TOKENS}),
}
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
