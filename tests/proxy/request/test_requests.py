"""Request bodies are read as their route's engine reads them, and refused by field and reason."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, RequestLimits
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import fitted, parse_request
from partitiond.proxy.request.routes import BY_PATH
from partitiond.proxy.request.scan import ScannedBody
from tests.proxy.charged_answers import (
    BATCH,
    CHATS,
    COMPLETIONS,
    GENERATING,
    MESSAGES,
    POOLING,
    RESPONSES,
    Api,
    packed,
)

NO_DICTS: list[Any] = [5, 0, -1.5, "x", "", [], [{"include_usage": True}], True, False]
NO_BOOLS: list[Any] = [[], {}, "false", "true", "", 0, 1, 2.5, [True], {"include_usage": True}]
APIS = (*GENERATING, BATCH, *POOLING)
CHOOSING = (COMPLETIONS, CHATS, BATCH)
RERANK = POOLING[-1]
OWN_LIMITS = {
    COMPLETIONS.path: ("max_tokens",),
    CHATS.path: ("max_completion_tokens", "max_tokens"),
    BATCH.path: ("max_completion_tokens", "max_tokens"),
    MESSAGES.path: ("max_tokens",),
    RESPONSES.path: ("max_output_tokens",),
}
LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
WAYS = [(api, field) for api in (*GENERATING, BATCH) for field in LIMIT_FIELDS]
NUMBER = b"9" * 5000


def read(
    path: str, body: bytes | dict[str, Any], *limits: RequestLimits, defaults: str = "",
    sequences: int = 2048,
) -> tuple[ParsedRequest, dict[str, Any]]:  # fmt: skip
    """What a request is for its model's engine. Raises AssertionError if it is refused."""
    found = _read(path, body, limits, defaults, sequences)
    assert not isinstance(found, ApiError), found
    return found[0], json.loads(found[1])


def refusal(
    path: str, body: bytes | dict[str, Any], *limits: RequestLimits, defaults: str = "",
    sequences: int = 2048,
) -> ApiError:  # fmt: skip
    found = _read(path, body, limits, defaults, sequences)
    assert isinstance(found, ApiError), found
    assert found.status == 400
    return found


def _read(
    path: str, body: bytes | dict[str, Any], limits: Sequence[RequestLimits], defaults: str,
    sequences: int,
) -> tuple[ParsedRequest, bytes] | ApiError:  # fmt: skip
    route, options = BY_PATH[path], ProxyOptions(max_sequences=sequences)
    sent = body if isinstance(body, bytes) else packed({"model": "m", **body}).encode()
    whole = ScannedBody()
    whole.add(sent)
    sent = whole.take()
    request = whole.refusal or parse_request(sent, route.measure, options)
    if isinstance(request, ApiError):
        return request
    model = ModelRoute("m", ModelAvailability.SERVING, "m", defaults_json=defaults)
    return fitted(sent, request, model, route, options=options, limits=limits)


def unlimited(api: Api) -> dict[str, Any]:
    return {k: v for k, v in api.body.items() if k not in LIMIT_FIELDS}


# stream_options


@pytest.mark.parametrize("api", [COMPLETIONS, CHATS])
def test_stream_options_mean_the_same_here_and_at_the_engine(api: Api) -> None:
    """What engines would take for a boolean is refused; what is no object they refuse themselves.

    Usage is always asked for, and after each token only for who reads it.
    """
    fields = ("include_usage", "continuous_usage_stats")
    for streams, field, value in itertools.product((True, False), fields, NO_BOOLS):
        options = {"stream_options": {field: value}, "stream": streams}
        error = refusal(api.path, {**unlimited(api), **options})
        assert error.param == f"stream_options.{field}", value
        assert "true or false" in error.message
    streamed = {**unlimited(api), "stream": True}
    for given in NO_DICTS:
        _, sent = read(api.path, {**streamed, "stream_options": given})
        assert (sent["stream_options"], type(sent["stream_options"])) == (given, type(given))
    assert read(api.path, streamed)[1]["stream_options"] == {"include_usage": True}
    for asked in (True, False, None):
        options = {"include_usage": asked, "continuous_usage_stats": True}
        request, sent = read(api.path, {**streamed, "stream_options": options})
        assert request.wants_usage is (asked is True)
        kept = {"continuous_usage_stats": True} if asked else {}
        assert sent["stream_options"] == {"include_usage": True, **kept}


@pytest.mark.parametrize("api", [MESSAGES, RESPONSES])
def test_stream_options_of_routes_that_know_none_are_left_to_the_engine(api: Api) -> None:
    for given in (*NO_DICTS, *[{"include_usage": one} for one in NO_BOOLS]):
        body = {**unlimited(api), "stream": True, "stream_options": given}
        assert read(api.path, body)[1] == {"model": "m", **body}


# Limits of output tokens


def test_a_limit_holds_for_the_routes_own_fields_and_no_other() -> None:
    """Engines ignore the others, and so they bound nothing, nor does an estimate go by them."""
    limits = RequestLimits(max_output_tokens=10)
    for api, field in WAYS:
        own, body = OWN_LIMITS[api.path], unlimited(api)
        if field in own:
            assert refusal(api.path, {**body, field: 11}, limits).code == "too_many_tokens"
            assert read(api.path, {**body, field: 10}, limits)[1][field] == 10
        else:
            assert read(api.path, {**body, field: 11}, limits)[1][own[0]] == 10
            beyond = {**body, own[0]: 100_000, field: 1}
            assert refusal(api.path, beyond, limits).code == "too_many_tokens"
        named = {**body, own[0]: 77} | ({} if field in own else {field: 1})
        assert read(api.path, named)[0].size.max_tokens == 77, (api.path, field)


@pytest.mark.parametrize("api", CHOOSING)
@pytest.mark.parametrize(
    ("limits", "default", "own", "expected"),
    [
        ((10, 0), "", None, 10),
        ((0, 5), "", None, 5),
        ((10, 5), "", None, 5),
        ((10, 0), "", 10, "its own"),
        ((10, 0), "", 11, "refused"),
        ((0, 5), '{"max_tokens":9}', None, 5),
        ((0, 5), '{"max_tokens":3}', None, "the default"),
        ((0, 5), '{"max_tokens":3}', 6, "refused"),
        ((0, 5), '{"max_tokens":9}', 4, "its own"),
    ],
)
def test_a_request_that_names_no_limit_gets_the_strictest(
    *, api: Api, limits: tuple[int, int], default: str, own: int | None, expected: Any
) -> None:
    """Of the model's and the key's limits, and the model's default."""
    each = [RequestLimits(max_output_tokens=limit) for limit in limits]
    asked = {**unlimited(api), **({} if own is None else {"max_tokens": own})}
    if expected == "refused":
        assert refusal(api.path, asked, *each, defaults=default).code == "too_many_tokens"
        return
    request, got = read(api.path, asked, *each, defaults=default)
    if isinstance(expected, int):
        assert got[OWN_LIMITS[api.path][0]] == request.size.max_tokens == expected
    else:
        assert got["max_tokens"] == request.size.max_tokens == (own or 3)
        assert "max_completion_tokens" not in got


@pytest.mark.parametrize("api", APIS)
def test_only_routes_with_choices_look_at_n(api: Api) -> None:
    each = max(1, api.conversations)
    for more, choices in (({"n": 2}, 2), ({"best_of": 2}, 2), ({"n": 3, "best_of": 2}, 3)):
        request, _ = read(api.path, {**unlimited(api), **more})
        assert request.sequences == each * (choices if api in CHOOSING else 1)
    most = RequestLimits(max_sequences=each)
    if api in CHOOSING:
        assert refusal(api.path, {**unlimited(api), "n": 2}, most).code == "too_many_sequences"
        assert refusal(api.path, {**unlimited(api), "n": "2"}).param == "n"
    else:
        read(api.path, {**unlimited(api), "n": "2"}, most)


# Prompts


PROMPTS: list[tuple[Any, int]] = [
    ([7] * 25, 100), ([7] * 26, 104), ([[7] * 13, [7] * 12], 100), ([[7] * 13] * 2, 104),
    ("x" * 100, 100), (["x" * 50, "é" * 26], 102), ([[], [7] * 24], 100), ([], 0),
]  # fmt: skip


def test_a_token_id_counts_as_four_bytes() -> None:
    limits = RequestLimits(max_prompt_bytes=100)
    paths = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/pooling": "input"}
    for (path, field), (prompt, count) in itertools.product(paths.items(), PROMPTS):
        if count <= 100:
            read(path, {field: prompt}, limits)
        else:
            error = refusal(path, {field: prompt}, limits)
            assert (error.code, f"has {count} bytes" in error.message) == ("prompt_too_long", True)


PAIRS = {"query": "q", "documents": ["a", "b"]}  # 3 and 9 bytes
PROMPT: list[tuple[Api, dict[str, Any], int, tuple[str, ...]]] = [
    (CHATS, unlimited(CHATS), 100, ("tools", "documents", "chat_template_kwargs")),
    (MESSAGES, unlimited(MESSAGES), 100, ("system", "tools")),
    (RESPONSES, unlimited(RESPONSES), 100, ("instructions", "tools", "previous_input_messages")),
    # Here they count in each conversation, and before each pair.
    (BATCH, unlimited(BATCH), 100, ("documents",)),
    (RERANK, PAIRS, 2 * 3 + 9, ("instruction", "chat_template", "chat_template_kwargs")),
]


@pytest.mark.parametrize(("api", "body", "size", "fields"), PROMPT)
def test_what_becomes_prompt_counts_and_nothing_else_does(
    api: Api, body: dict[str, Any], size: int, fields: tuple[str, ...]
) -> None:
    times = 2 if api.path in {BATCH.path, RERANK.path} else 1
    for field in fields:
        counted = read(api.path, {**body, field: ["x" * 96]})[0].size.prompt_bytes  # 100 bytes
        assert counted == size + times * 100, field
        assert read(api.path, {**body, field: None})[0].size.prompt_bytes == size
    ignored = {"metadata": {"a": "x" * 5000}, "user": "u" * 5000, "xyz": ["x" * 5000]}
    assert read(api.path, {**body, **ignored})[0].size.prompt_bytes == size


@pytest.mark.parametrize(
    ("written", "size"), [(r"\u4e2d", 3), (r"\\u4e2d", 7), (r"\ud83d\ude00", 6), (r"\n\\", 4)]
)
def test_an_escape_counts_as_the_character_that_it_writes(written: str, size: int) -> None:
    """At most: a backslash with a letter is none."""
    body = b'{"model":"m","messages":[{"a":"%b"}]}' % written.encode()
    assert read(CHATS.path, body)[0].size.prompt_bytes == len('[{"a":""}]') + size


CHAT = [{"role": "user", "content": "x"}]
MANY: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("/v1/embeddings", "input", "x", {}),
    ("/v1/embeddings", "input", [1, 2], {}),
    ("/v1/completions", "prompt", "x", {"max_tokens": 1}),
    ("/v1/rerank", "documents", "x", {"query": "q"}),
    ("/v1/score", "text_2", "x", {"text_1": "q"}),
    (BATCH.path, "messages", CHAT, {}),
]


@pytest.mark.parametrize(("path", "field", "each", "beside"), MANY)
def test_each_input_is_a_sequence_up_to_the_limit(
    path: str, field: str, each: object, beside: dict[str, Any]
) -> None:
    """As OpenAI takes, and as clients send them."""
    assert read(path, {field: [each] * 2048, **beside})[0].sequences == 2048
    error = refusal(path, {field: [each] * 2049, **beside})
    assert error.param is None
    assert "2049 inputs" in error.message
    assert "at most 2048 are allowed (proxy.max_sequences)" in error.message


BOTH: list[tuple[str, dict[str, Any], int, int]] = [
    ("/v1/embeddings", {"input": "x", "messages": CHAT}, 1, 1 + 31),
    ("/pooling", {"input": [[1], [2]], "messages": CHAT}, 2, 31),
    ("/classify", {"input": CHAT, "messages": [CHAT] * 2}, 2, 31 + 65),
    ("/v1/embeddings", {"messages": [CHAT] * 3, "chat_template": "x"}, 3, 97 + 3 * 3),
    ("/v1/score", {"text_1": "xyz", "text_2": ["a", "b", "c"]}, 3, 3 * 5 + 13),
    ("/v1/score", {"data_1": ["xyz"], "data_2": ["a", "b", "c"]}, 3, 3 * 7 + 13),
    ("/v1/score", {"queries": ["xyz", "x"], "items": ["a", "b"]}, 2, 11 + 9),
    ("/rerank", {"query": {"content": []}, "documents": []}, 1, 14 + 2),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "sequences", "size"), BOTH)
def test_no_field_hides_another_that_engines_read(
    path: str, body: dict[str, Any], sequences: int, size: int
) -> None:
    """Engines prefer conversations to inputs, and read what is one in every pair."""
    compact = json.dumps({"model": "m", **body}, separators=(",", ":")).encode()
    request, _ = read(path, compact)
    assert (request.sequences, request.size.prompt_bytes) == (sequences, size)


def test_the_limit_of_inputs_counts_choices() -> None:
    for inputs, n in ((3, 2), (6, 1)):
        read(COMPLETIONS.path, {"prompt": ["x"] * inputs, "n": n}, sequences=6)
    for inputs, n, param in ((7, 1, None), (2, 4, "n")):
        error = refusal(COMPLETIONS.path, {"prompt": ["x"] * inputs, "n": n}, sequences=6)
        assert error.param == param


EMPTY: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {}, {"prompt": None}, {"prompt": ""}, {"prompt": []}, {"prompt": [[]]},
        {"prompt": [[], [1]]},
    ],
    "/v1/chat/completions": [{}, {"messages": []}],
    "/v1/chat/completions/batch": [
        {}, {"messages": None}, {"messages": []}, {"messages": [[]]},
        {"messages": [[], [{"role": "user"}]]},
    ],
    "/v1/messages": [{"messages": [], "max_tokens": 5}],
    "/v1/responses": [{}, {"input": ""}, {"input": []}],
    "/v1/embeddings": [{"input": []}],
}  # fmt: skip


def test_an_empty_prompt_takes_a_slot_until_its_engine_refuses_it_in_its_own_words() -> None:
    for path, bodies in EMPTY.items():
        for body in bodies:
            request, sent = read(path, body)
            assert sent == {"model": "m", **body}, path
            prompts = [one for one in body.values() if isinstance(one, list)]
            assert request.sequences == max([1, *map(len, prompts)]), (path, body)


# Wrong fields


NO_MESSAGES: list[Any] = ["x", {}, False, ""]
NO_BATCHES: list[Any] = ["x", {}, CHAT, [CHAT, [5]], [CHAT, None]]
NO_IDS: list[Any] = [
    [1, "x"], [1.5], [-1], [None], [[[1]]], [1, [2]], [[1], 2], [[1], [2], 3, [4]], [[1, [2]]],
    [[], {}], [{"a": [1]}, 1],
]  # fmt: skip
NO_INPUTS: list[Any] = [5, [[1], ["x"]], [True], *NO_IDS[:-1]]
NO_PROMPTS: list[Any] = [{}, 0, False, [[], "x"], [[], ["x"]], *NO_IDS]
NO_LIMITS: list[Any] = [-1, 1.5, True, 1e99]
WRONG_TYPES: list[tuple[str, dict[str, Any], str | None]] = [
    *[("/v1/chat/completions", {"messages": no}, "messages") for no in NO_MESSAGES],
    ("/v1/chat/completions", {"messages": [{"role": "user"}, 5]}, "messages"),
    ("/v1/chat/completions", {"messages": [[]]}, "messages"),
    *[(BATCH.path, {"messages": no}, "messages") for no in NO_BATCHES],
    ("/v1/embeddings", {"input": "x", "messages": [[5]]}, "messages"),
    (BATCH.path, {"messages": [[{}]], "max_tokens": "5"}, "max_tokens"),
    (BATCH.path, {"messages": [[{}]], "stream": True}, "stream"),
    ("/v1/messages", {"messages": [None]}, "messages"),
    ("/v1/messages", {"messages": [{}], "max_tokens": [5]}, "max_tokens"),
    ("/v1/responses", {"input": 5}, "input"),
    ("/v1/responses", {"input": {"a": 1}}, "input"),
    ("/v1/responses", {"input": "x", "max_output_tokens": "5"}, "max_output_tokens"),
    *[("/v1/embeddings", {"input": no}, "input") for no in NO_INPUTS],
    *[("/v1/completions", {"prompt": no}, "prompt") for no in NO_PROMPTS],
    ("/v1/completions", {"prompt_embeds": ["a", "b"]}, "prompt_embeds"),
    ("/v1/completions", {"prompt": [], "prompt_embeds": "a"}, "prompt_embeds"),
    *[("/v1/completions", {"prompt": "x", "n": no}, "n") for no in (0, 1_000_000, True)],
    *[("/v1/completions", {"prompt": "x", "max_tokens": no}, "max_tokens") for no in NO_LIMITS],
    ("/v1/completions", {"prompt": "x", "stream": "yes"}, "stream"),
    ("/v1/completions", {"model": 3, "prompt": "x"}, "model"),
    ("/v1/completions", {"model": ["m"], "prompt": "x"}, "model"),
    ("/v1/completions", {"prompt": "x", "n": {}}, "n"),
    ("/v1/completions", {"prompt": "x", "stream_options": {"a": "x" * 66_000}}, "stream_options"),
    ("/v1/rerank", {"query": "q", "documents": ["a", 5]}, None),
    ("/v1/completions", {"model": None, "prompt": "x"}, "model"),
]
NO_JSON = [
    b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model":"m","x":"\xff"}',
    b'{"model":"m","x":' + b"[" * 100 + b"]" * 100 + b"}",
]  # fmt: skip
TOO_LARGE = [
    b'"n":' + NUMBER,
    b'"max_tokens":1e999',
    b'"stream_options":{"x":%b}' % NUMBER,
]


def test_a_wrong_type_is_refused_by_name() -> None:
    for path, body, param in WRONG_TYPES:
        assert refusal(path, body).param == param, (path, body)


def test_what_is_no_json_or_has_a_number_beyond_all_readers_is_refused_by_that_reason() -> None:
    for body in NO_JSON:
        assert refusal("/v1/completions", body).code == "invalid_json", body[:40]
    for field in TOO_LARGE:
        error = refusal("/v1/completions", b'{"model":"m","prompt":"x",' + field + b"}")
        assert error.code == "invalid_json"
        assert error.message.startswith("A number in the body is too large to be read: ")
    # What can be read reaches the engine, as it came and written anew.
    for model in ("m", "alias"):
        _, sent = read("/v1/completions", {"model": model, "prompt": "x", "seed": 10**40})
        assert sent == {"model": "m", "prompt": "x", "seed": 10**40}
