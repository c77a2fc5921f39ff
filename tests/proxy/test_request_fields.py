"""Request fields are those of their route, of the right type, and counted for their cost."""

import itertools
from typing import Any

import pytest

from partitiond.core.dispatch.routing import RequestLimits
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
from tests.proxy.conftest import Make, Proxy, key
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, stream

NO_DICTS: list[Any] = [5, 0, -1.5, "x", "", [], [{"include_usage": True}], True, False]
NO_BOOLS: list[Any] = [[], {}, "false", "true", "", 0, 1, 2.5, [True], {"include_usage": True}]
APIS = (*GENERATING, BATCH, *POOLING)
NO_LISTS: list[Any] = [{}, False, ""]
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


def all_answers(request: Received) -> list[Step]:
    (api,) = (one for one in APIS if one.path == request.path)
    if request.body.get("stream"):
        return stream(*api.begin, *api.told, *api.end)
    return api.answered(told=True)


async def made(make: Make, **limits: int) -> tuple[Proxy, ScriptedEngine]:
    keys = key(limits=RequestLimits(**limits)), key("k2")
    return await make.both(all_answers, at={"max_sequences": 99}, route={"keys": keys})


async def post(
    proxy: Proxy, path: str, body: dict[str, Any], name: str = "k1"
) -> tuple[int, dict[str, Any]]:
    """Status and answer; of a stream no answer."""
    headers = {"authorization": f"Bearer {name}", "content-type": "application/json"}
    async with proxy.client as client:
        sent = packed({"model": "m", **body}).encode()
        reply = await client.post(path, content=sent, headers=headers)
    return reply.status_code, {} if body.get("stream") and reply.is_success else reply.json()


async def refusal(proxy: Proxy, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and code of an answer; the code is empty where there is no error."""
    status, told = await post(proxy, path, body)
    return status, told.get("error", {}).get("code", "")


def unlimited(api: Api) -> dict[str, Any]:
    return {k: v for k, v in api.body.items() if k not in LIMIT_FIELDS}


# stream_options


@pytest.mark.parametrize("api", [COMPLETIONS, CHATS])
async def test_a_stream_option_that_is_no_boolean_is_refused(make: Make, api: Api) -> None:
    """Also those that engines would take: they must mean the same here and there."""
    proxy, engine = await made(make)
    fields = ("include_usage", "continuous_usage_stats")
    for streams, field, value in itertools.product((True, False), fields, NO_BOOLS):
        options = {"stream_options": {field: value}, "stream": streams}
        status, told = await post(proxy, api.path, {**unlimited(api), **options})
        assert (status, told["error"]["param"]) == (400, f"stream_options.{field}"), value
        assert "true or false" in told["error"]["message"]
    assert not engine.received


async def test_a_boolean_decides_whether_the_client_gets_usage(make: Make) -> None:
    proxy, engine = await made(make)
    for value in (True, False, None):
        text = await proxy.stream_text(stream_options={"include_usage": value})
        assert ("prompt_tokens" in text) == (value is True)
        assert engine.received[-1].body["stream_options"]["include_usage"] is True


async def test_usage_after_each_token_is_asked_only_for_who_reads_it(make: Make) -> None:
    proxy, engine = await made(make)
    for asked in (False, True):
        options = {"include_usage": asked, "continuous_usage_stats": True}
        await proxy.stream_text(stream_options=options)
        assert ("continuous_usage_stats" in engine.received[-1].body["stream_options"]) is asked


async def test_stream_options_that_are_no_object_are_left_to_the_engine(make: Make) -> None:
    """So the client reads what the engine says of it; other routes do not know them at all."""
    words = {"error": {"message": "Input should be a valid dictionary", "code": 400}}
    proxy, engine = await make.both(lambda _: answer(words, 400, "Bad Request"))
    for api, value in itertools.product((COMPLETIONS, CHATS), NO_DICTS):
        body = {**unlimited(api), "stream": True, "stream_options": value}
        assert await post(proxy, api.path, body) == (400, words)
        assert engine.received[-1].body["stream_options"] == value
        assert type(engine.received[-1].body["stream_options"]) is type(value)
    engine.script = all_answers
    any_options = (*NO_DICTS, *[{"include_usage": one} for one in NO_BOOLS])
    for api, value in itertools.product((MESSAGES, RESPONSES), any_options):
        body = {**unlimited(api), "stream": True, "stream_options": value}
        assert (await post(proxy, api.path, body))[0] == 200


# Limits of output tokens


async def test_a_limit_holds_for_the_routes_own_fields_and_no_other(make: Make) -> None:
    proxy, engine = await made(make, max_output_tokens=10)
    for api, field in WAYS:
        own, before = OWN_LIMITS[api.path], len(engine.received)
        beyond = await refusal(proxy, api.path, {**unlimited(api), field: 11})
        if field in own:
            assert beyond == (400, "too_many_tokens")
            status, _ = await post(proxy, api.path, {**unlimited(api), field: 10})
            assert (status, engine.received[-1].body[field]) == (200, 10)
        else:
            # Engines ignore the field there, and so it bounds nothing: the limit itself is sent.
            assert beyond == (200, "")
            assert engine.received[-1].body[own[0]] == 10
            both = {**unlimited(api), own[0]: 100_000, field: 1}
            assert await refusal(proxy, api.path, both) == (400, "too_many_tokens")
        assert len(engine.received) == before + 1


@pytest.mark.parametrize("api", [COMPLETIONS, CHATS, BATCH])
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
async def test_a_request_that_names_no_limit_gets_the_strictest(
    make: Make, *, api: Api, limits: tuple[int, int], default: str, own: int | None, expected: Any
) -> None:
    """Of the model's and the key's limits, and the model's default."""
    of_model, of_key = (RequestLimits(max_output_tokens=limit) for limit in limits)
    route = {"keys": (key(limits=of_key),), "limits": of_model, "defaults_json": default}
    proxy, engine = await make.both(all_answers, route=route)
    asked = {**unlimited(api), **({} if own is None else {"max_tokens": own})}
    told = await refusal(proxy, api.path, asked)
    if expected == "refused":
        assert (told, engine.received) == ((400, "too_many_tokens"), [])
        return
    got = engine.received[0].body
    if isinstance(expected, int):
        assert got[OWN_LIMITS[api.path][0]] == expected
    else:
        assert got["max_tokens"] == (own or 3)
        assert "max_completion_tokens" not in got


async def test_the_estimate_goes_by_the_routes_own_limit(make: Make) -> None:
    proxy, engine = await made(make)
    answers = {api.path: api.answered(told=False) for api in APIS}
    engine.script = lambda request: answers[request.path]
    counted = 0
    for api, field in WAYS:
        own = OWN_LIMITS[api.path]
        body = {**unlimited(api), own[0]: 77} | ({} if field in own else {field: 1})
        await post(proxy, api.path, body)
        told = proxy.state.traffic()["usage"]["k1"]["m"]["output_tokens"]
        assert told - counted == 77 * max(1, api.conversations), (api.path, field)
        counted = told


@pytest.mark.parametrize("api", APIS)
async def test_only_routes_with_choices_look_at_n(make: Make, api: Api) -> None:
    proxy, _ = await made(make, max_sequences=max(1, api.conversations))
    counts = api.path in {COMPLETIONS.path, CHATS.path, BATCH.path}
    for more in ({"n": 2}, {"best_of": 2}, {"n": "2"}):
        status, _ = await post(proxy, api.path, {**unlimited(api), **more})
        assert status == (400 if counts else 200), more


# Limits of prompt bytes


def tokens(count: int) -> list[int]:
    return [7] * count


PROMPTS: list[tuple[Any, int]] = [
    (tokens(25), 100), (tokens(26), 104), ([tokens(13), tokens(12)], 100), ([tokens(13)] * 2, 104),
    ("x" * 100, 100), (["x" * 50, "é" * 26], 102),
]  # fmt: skip


async def test_a_token_id_counts_as_four_bytes(make: Make) -> None:
    proxy, _ = await made(make, max_prompt_bytes=100)
    paths = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/pooling": "input"}
    for (path, field), (prompt, count) in itertools.product(paths.items(), PROMPTS):
        status, told = await post(proxy, path, {field: prompt})
        assert status == (200 if count <= 100 else 400), (path, prompt)
        if count > 100:
            assert told["error"]["code"] == "prompt_too_long"
            assert f"has {count} bytes" in told["error"]["message"]


@pytest.mark.parametrize("api", APIS)
async def test_what_is_no_prompt_counts_nowhere(make: Make, api: Api) -> None:
    proxy, _ = await made(make, max_prompt_bytes=100)
    ignored = {"metadata": {"a": "x" * 5000}, "user": "u" * 5000, "xyz": ["x" * 5000]}
    assert (await post(proxy, api.path, {**unlimited(api), **ignored}))[0] == 200
    ratio = proxy.state.models["m"].figures.of("k1").prompt.value
    assert ratio > 0.3  # of 100 bytes and 41 tokens


PAIRS = {"query": "q", "documents": ["a", "b"]}  # 3 and 9 bytes
BESIDE_THE_PROMPT: list[tuple[Api, dict[str, Any], int, tuple[str, ...]]] = [
    (CHATS, unlimited(CHATS), 200, ("tools", "documents", "chat_template_kwargs")),
    (MESSAGES, unlimited(MESSAGES), 200, ("system", "tools")),
    (RESPONSES, unlimited(RESPONSES), 200, ("instructions", "tools", "previous_input_messages")),
    # Here they count in each conversation, and before each pair.
    (BATCH, unlimited(BATCH), 300, ("documents",)),
    (RERANK, PAIRS, 3 + 9 + 200, ("instruction", "chat_template", "chat_template_kwargs")),
]


async def test_what_becomes_prompt_counts(make: Make) -> None:
    for api, body, limit, fields in BESIDE_THE_PROMPT:
        proxy, _ = await made(make, max_prompt_bytes=limit)
        for field in fields:
            fits = {**body, field: ["x" * 96]}  # 100 bytes
            beyond = {**body, field: ["x" * 97]}
            assert await refusal(proxy, api.path, fits) == (200, ""), (api.path, field)
            assert await refusal(proxy, api.path, beyond) == (400, "prompt_too_long"), field
            assert await refusal(proxy, api.path, {**body, field: None}) == (200, "")


async def test_each_conversation_of_a_batch_is_a_sequence(make: Make) -> None:
    for most, told in ((1, (400, "too_many_sequences")), (2, (200, ""))):
        proxy, _ = await made(make, max_sequences=most)
        assert await refusal(proxy, BATCH.path, unlimited(BATCH)) == told


@pytest.mark.parametrize(("messages", "sequences"), [(None, 1), ([], 1), ([[]], 1), ([[], []], 2)])
def test_an_empty_batch_takes_a_slot_until_its_engine_refuses_it(
    messages: object, sequences: int
) -> None:
    body = packed({"model": "m", "messages": messages}).encode()
    parsed = parse_request(body, measure_chat_batch, ProxyOptions())
    assert isinstance(parsed, ParsedRequest)
    assert parsed.sequences == sequences


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
async def test_a_request_has_2048_inputs_and_no_more(
    make: Make, path: str, field: str, each: object, beside: dict[str, Any]
) -> None:
    """As OpenAI takes, and as clients send them: also where a batch is smaller."""
    proxy, engine = await make.both(all_answers, at={"max_sequences": 32})
    assert (await post(proxy, path, {field: [each] * 2048, **beside}))[0] == 200
    status, told = await post(proxy, path, {field: [each] * 2049, **beside})
    assert (status, told["error"]["param"]) == (400, None)
    assert "2049 inputs" in told["error"]["message"]
    assert "at most 2048 are allowed (proxy.max_sequences)" in told["error"]["message"]
    assert len(engine.received) == 1
    assert proxy.idle()


async def test_the_limit_of_inputs_is_a_setting_and_counts_choices(make: Make) -> None:
    proxy, _ = await make.both(all_answers, max_sequences=6)
    for inputs, n, expected in ((3, 2, 200), (6, 1, 200), (7, 1, 400), (2, 4, 400)):
        body = {"prompt": ["x"] * inputs, "n": n, "max_tokens": 1}
        status, told = await post(proxy, COMPLETIONS.path, body)
        assert status == expected, (inputs, n)
        if n == 4:
            assert told["error"]["param"] == "n"


# Wrongly typed fields


WRONG_TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": "x"}, "messages"),
    *[("/v1/chat/completions", {"messages": no}, "messages") for no in NO_LISTS],
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


async def test_a_wrong_type_is_refused_by_name(make: Make) -> None:
    proxy, engine = await made(make)
    for path, body, param in WRONG_TYPES:
        status, told = await post(proxy, path, body)
        assert (status, told["error"]["param"]) == (400, param), (path, body)
    assert not engine.received


# Learned ratios


async def test_one_keys_odd_prompts_move_no_other_keys_estimates(make: Make) -> None:
    proxy, _ = await made(make)
    figures = proxy.state.models["m"].figures
    for _ in range(20):
        await post(proxy, "/v1/completions", {"prompt": "x" * 20_000})
    assert figures.of("k1").prompt.value < 0.05
    assert figures.of("k2").prompt.value == figures.of("").prompt.value == 0.3
    for _ in range(20):
        await post(proxy, "/v1/completions", {"prompt": "x"}, "k2")
    assert figures.of("k2").prompt.value == pytest.approx(0.3, rel=0.1)
