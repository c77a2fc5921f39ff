"""Request fields are those of their route, of the right type, and counted for their cost."""

import hashlib
import itertools
from typing import Any

import pytest

from partitiond.core.dispatch.routing import NO_REQUEST_LIMITS, KeyRoute, RequestLimits
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import measure_chat_batch, parse_request
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
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, stream

NO_DICTS: list[Any] = [5, 0, -1.5, "x", "", [], [{"include_usage": True}], True, False]
NO_BOOLS: list[Any] = [[], {}, "false", "true", "", 0, 1, 2.5, [True], {"include_usage": True}]
APIS = (*GENERATING, BATCH, *POOLING)
OWN_LIMITS = {
    COMPLETIONS.path: ("max_tokens",),
    CHATS.path: ("max_completion_tokens", "max_tokens"),
    BATCH.path: ("max_completion_tokens", "max_tokens"),
    MESSAGES.path: ("max_tokens",),
    RESPONSES.path: ("max_output_tokens",),
}
LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def key(name: str = "k1", limits: RequestLimits = NO_REQUEST_LIMITS) -> KeyRoute:
    return KeyRoute(name, hashlib.sha256(name.encode()).hexdigest(), limits=limits)


def all_answers(request: Received) -> list[Step]:
    (api,) = (one for one in APIS if one.path == request.path)
    if request.body.get("stream"):
        return stream(*api.begin, *api.told, *api.end)
    return api.answered(told=True)


async def made(
    make_proxy: MakeProxy, make_engine: MakeEngine, **limits: int
) -> tuple[Proxy, ScriptedEngine]:
    engine = await make_engine(all_answers)
    keys = (key(limits=RequestLimits(**limits)), key("k2"))
    return await make_proxy(table(replica(engine), keys=keys)), engine


async def post(
    proxy: Proxy, path: str, body: dict[str, Any], name: str = "k1"
) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {name}", "content-type": "application/json"}
    async with proxy.client as client:
        reply = await client.post(path, content=packed(body).encode(), headers=headers)
    return reply.status_code, {} if body.get("stream") and reply.is_success else reply.json()


def unlimited(api: Api) -> dict[str, Any]:
    return {"model": "m", **{k: v for k, v in api.body.items() if k not in LIMIT_FIELDS}}


WAYS = [(api, field) for api in (*GENERATING, BATCH) for field in LIMIT_FIELDS]


# stream_options


@pytest.mark.parametrize("api", [COMPLETIONS, CHATS])
async def test_a_stream_option_that_is_no_boolean_is_refused(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    """Also those that engines would take: they must mean the same here and there."""
    proxy, engine = await made(make_proxy, make_engine)
    fields = ("include_usage", "continuous_usage_stats")
    for streams, field, value in itertools.product((True, False), fields, NO_BOOLS):
        options = {"stream_options": {field: value}, "stream": streams}
        status, told = await post(proxy, api.path, {**unlimited(api), **options})
        assert (status, told["error"]["param"]) == (400, f"stream_options.{field}"), value
        assert "true or false" in told["error"]["message"]
    assert not engine.received


async def test_a_boolean_decides_whether_the_client_gets_usage(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, engine = await made(make_proxy, make_engine)
    for value in (True, False, None):
        text = await proxy.stream_text(stream_options={"include_usage": value})
        assert ("prompt_tokens" in text) == (value is True)
        assert engine.received[-1].body["stream_options"]["include_usage"] is True


async def test_stream_options_that_are_no_object_are_left_to_the_engine(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """So the client reads what the engine says of it."""
    words = {"error": {"message": "Input should be a valid dictionary", "code": 400}}
    engine = await make_engine(lambda _: answer(words, 400, "Bad Request"))
    proxy = await make_proxy(table(replica(engine)))
    for api, value in itertools.product((COMPLETIONS, CHATS), NO_DICTS):
        body = {**unlimited(api), "stream": True, "stream_options": value}
        assert await post(proxy, api.path, body) == (400, words)
        assert engine.received[-1].body["stream_options"] == value
        assert type(engine.received[-1].body["stream_options"]) is type(value)


@pytest.mark.parametrize("api", [MESSAGES, RESPONSES])
async def test_routes_that_know_no_stream_options_do_not_look_at_them(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    proxy, _ = await made(make_proxy, make_engine)
    for value in (*NO_DICTS, *[{"include_usage": one} for one in NO_BOOLS]):
        body = {**unlimited(api), "stream": True, "stream_options": value}
        assert (await post(proxy, api.path, body))[0] == 200


# Limits of output tokens


async def test_a_limit_holds_for_the_routes_own_fields_and_no_other(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, engine = await made(make_proxy, make_engine, max_output_tokens=10)
    for api, field in WAYS:
        own, before = OWN_LIMITS[api.path], len(engine.received)
        status, told = await post(proxy, api.path, {**unlimited(api), field: 11})
        if field in own:
            assert (status, told["error"]["code"]) == (400, "too_many_tokens")
            status, _ = await post(proxy, api.path, {**unlimited(api), field: 10})
            assert (status, engine.received[-1].body[field]) == (200, 10)
        else:
            # Engines ignore the field there, and so it bounds nothing: the limit itself is sent.
            assert status == 200
            assert engine.received[-1].body[own[0]] == 10
            both = {**unlimited(api), own[0]: 100_000, field: 1}
            status, told = await post(proxy, api.path, both)
            assert (status, told["error"]["code"]) == (400, "too_many_tokens")
        assert len(engine.received) == before + 1


async def test_the_estimate_goes_by_the_routes_own_limit(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    answers = {api.path: api.answered(told=False) for api in APIS}
    engine = await make_engine(lambda request: answers[request.path])
    proxy = await make_proxy(table(replica(engine, max_sequences=99), keys=(key(),)))
    counted = 0
    for api, field in WAYS:
        own = OWN_LIMITS[api.path]
        body = {**unlimited(api), own[0]: 77} | ({} if field in own else {field: 1})
        await post(proxy, api.path, body)
        told = proxy.state.traffic()["usage"]["k1"]["m"]["output_tokens"]
        assert told - counted == 77 * max(1, api.conversations), (api.path, field)
        counted = told


@pytest.mark.parametrize("api", APIS)
async def test_only_routes_with_choices_look_at_n(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_sequences=max(1, api.conversations))
    counts = api.path in {COMPLETIONS.path, CHATS.path, BATCH.path}
    for more in ({"n": 2}, {"best_of": 2}, {"n": "2"}):
        status, _ = await post(proxy, api.path, {**unlimited(api), **more})
        assert status == (400 if counts else 200), more


# Limits of prompt bytes


PROMPTS: list[tuple[Any, int]] = [
    ([7] * 25, 100), ([7] * 26, 104), ([[7] * 13, [7] * 12], 100), ([[7] * 13] * 2, 104),
    ("x" * 100, 100), (["x" * 50, "é" * 26], 102),
]  # fmt: skip


async def test_a_token_id_counts_as_four_bytes(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_prompt_bytes=100)
    for path, (prompt, count) in itertools.product(
        ("/v1/completions", "/v1/embeddings", "/pooling"), PROMPTS
    ):
        field = "prompt" if path == "/v1/completions" else "input"
        status, told = await post(proxy, path, {"model": "m", field: prompt})
        assert status == (200 if count <= 100 else 400), (path, prompt)
        if count > 100:
            assert told["error"]["code"] == "prompt_too_long"
            assert f"has {count} bytes" in told["error"]["message"]


@pytest.mark.parametrize("api", APIS)
async def test_what_is_no_prompt_counts_nowhere(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_prompt_bytes=100)
    ignored = {"metadata": {"a": "x" * 5000}, "user": "u" * 5000, "xyz": ["x" * 5000]}
    assert (await post(proxy, api.path, {**unlimited(api), **ignored}))[0] == 200
    ratio = proxy.state.models["m"].ratios.value("k1")
    assert ratio > 0.3  # of 100 bytes and 41 tokens


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        (CHATS, ("tools", "documents", "chat_template_kwargs")),
        (MESSAGES, ("system", "tools")),
        (RESPONSES, ("instructions", "tools", "previous_input_messages")),
    ],
)
async def test_what_becomes_prompt_counts(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, fields: tuple[str, ...]
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_prompt_bytes=200)
    for field in fields:
        body = {**unlimited(api), field: ["x" * 96]}
        assert (await post(proxy, api.path, body))[0] == 200
        status, told = await post(proxy, api.path, {**body, field: ["x" * 97]})
        assert (status, told["error"]["code"]) == (400, "prompt_too_long")
        assert (await post(proxy, api.path, {**unlimited(api), field: None}))[0] == 200


@pytest.mark.parametrize("field", ["instruction", "chat_template", "chat_template_kwargs"])
async def test_what_comes_before_each_pair_counts_in_each(
    make_proxy: MakeProxy, make_engine: MakeEngine, field: str
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_prompt_bytes=212)
    body = {"model": "m", "query": "q", "documents": ["a", "b"]}  # 3 and 9 bytes
    for count, expected in ((98, 200), (99, 400)):
        status, _ = await post(proxy, "/v1/rerank", {**body, field: "x" * count})
        assert status == expected
    assert (await post(proxy, "/v1/rerank", {**body, field: None}))[0] == 200


async def test_what_a_batch_says_once_counts_in_each_conversation(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_prompt_bytes=300)
    body = {**unlimited(BATCH), "documents": ["x" * 96]}
    assert (await post(proxy, BATCH.path, body))[0] == 200
    status, told = await post(proxy, BATCH.path, {**body, "documents": ["x" * 97]})
    assert (status, told["error"]["code"]) == (400, "prompt_too_long")
    assert "has 302 bytes" in told["error"]["message"]


@pytest.mark.parametrize(("most", "code"), [(1, "too_many_sequences"), (2, None)])
async def test_each_conversation_of_a_batch_is_a_sequence(
    make_proxy: MakeProxy, make_engine: MakeEngine, most: int, code: str | None
) -> None:
    proxy, _ = await made(make_proxy, make_engine, max_sequences=most)
    status, told = await post(proxy, BATCH.path, unlimited(BATCH))
    assert (status, told.get("error", {}).get("code")) == ((400, code) if code else (200, None))


@pytest.mark.parametrize(("messages", "sequences"), [(None, 1), ([], 1), ([[]], 1), ([[], []], 2)])
def test_an_empty_batch_takes_a_slot_until_its_engine_refuses_it(
    messages: object, sequences: int
) -> None:
    body = packed({"model": "m", "messages": messages}).encode()
    parsed = parse_request(body, measure_chat_batch, ProxyOptions())
    assert isinstance(parsed, ParsedRequest)
    assert parsed.sequences == sequences


async def test_a_batch_has_as_many_conversations_as_requests_have_prompts(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, engine = await made(make_proxy, make_engine)
    most = proxy.state.options.max_prompts
    chats = [[{"role": "user", "content": "x"}]] * (most + 1)
    status, told = await post(proxy, BATCH.path, {"model": "m", "messages": chats})
    assert (status, told["error"]["param"]) == (400, "messages")
    assert (await post(proxy, BATCH.path, {"model": "m", "messages": chats[:most]}))[0] == 200
    assert len(engine.received) == 1


# Wrongly typed fields


WRONG_TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": "x"}, "messages"),
    ("/v1/chat/completions", {"messages": {}}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}, 5]}, "messages"),
    ("/v1/chat/completions", {"messages": [[]]}, "messages"),
    (BATCH.path, {"messages": "x"}, "messages"),
    (BATCH.path, {"messages": [{"role": "user", "content": "x"}]}, "messages"),
    (BATCH.path, {"messages": [[{"role": "user"}], [5]]}, "messages"),
    (BATCH.path, {"messages": [[{"role": "user"}], None]}, "messages"),
    (BATCH.path, {"messages": {}}, "messages"),
    (BATCH.path, {"messages": [[{}]], "max_tokens": "5"}, "max_tokens"),
    (BATCH.path, {"messages": [[{}]], "stream": True}, "stream"),
    ("/v1/completions", {"prompt": "x", "stream_interval": "5"}, "stream_interval"),
    ("/v1/completions", {"prompt": "x", "stream_interval": 0}, "stream_interval"),
    ("/v1/chat/completions", {"messages": [{}], "stream_interval": 5.5}, "stream_interval"),
    ("/v1/messages", {"messages": [None]}, "messages"),
    ("/v1/responses", {"input": 5}, "input"),
    ("/v1/responses", {"input": {"a": 1}}, "input"),
    ("/v1/responses", {"input": "x", "max_output_tokens": "5"}, "max_output_tokens"),
    ("/v1/messages", {"messages": [{}], "max_tokens": [5]}, "max_tokens"),
    ("/v1/embeddings", {"input": 5}, "input"),
    ("/v1/embeddings", {"input": [1, "x"]}, "input"),
    ("/v1/embeddings", {"input": [[1], ["x"]]}, "input"),
    ("/v1/embeddings", {"input": [True]}, "input"),
]


async def test_a_wrong_type_is_refused_by_name(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, engine = await made(make_proxy, make_engine)
    for path, body, param in WRONG_TYPES:
        status, told = await post(proxy, path, {"model": "m", **body})
        assert (status, told["error"]["param"]) == (400, param), (path, body)
    assert not engine.received


# Learned ratios


async def test_one_keys_odd_prompts_move_no_other_keys_estimates(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, _ = await made(make_proxy, make_engine)
    ratios = proxy.state.models["m"].ratios
    for _ in range(20):
        await post(proxy, "/v1/completions", {"model": "m", "prompt": "x" * 20_000})
    assert ratios.value("k1") < 0.05
    assert ratios.value("k2") == ratios.value("") == 0.3
    for _ in range(20):
        await post(proxy, "/v1/completions", {"model": "m", "prompt": "x"}, "k2")
    assert ratios.value("k2") == pytest.approx(0.3, rel=0.1)
