"""Clients see the right routes, shapes, keys and limits."""

import hashlib
import itertools
import json
from typing import Any

import httpx
import openai
import pytest

from partitiond.core.dispatch.routing import KeyRoute, ModelAvailability
from partitiond.proxy.supervisor import parse_samples
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import answer, well_behaved


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, after checking that its shape is OpenAI's and that it has a request id."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"].startswith("req-")
    error: dict[str, Any] = body["error"]
    return error


async def test_a_completion_and_a_chat_by_the_openai_client(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy = await make_proxy(table(replica(await make_engine())))
    async with proxy.openai() as client:
        completion = await client.completions.create(model="m", prompt="hi")
        chat = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
    assert completion.choices[0].text == "hello"
    assert chat.choices[0].message.content == "hello"
    assert completion._request_id is not None
    assert proxy.idle()


async def test_streams_by_the_openai_client(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    proxy = await make_proxy(table(replica(await make_engine())))
    async with proxy.openai() as client:
        stream = await client.completions.create(model="m", prompt="hi", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
        chat = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in chat])
    assert (text, said) == ("hello", "hello")


async def test_models_are_listed_and_found(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    proxy = await make_proxy(table(replica(await make_engine()), models=("m", "n")))
    async with proxy.openai() as client:
        assert [model.id async for model in client.models.list()] == ["m", "n"]
        assert (await client.models.retrieve("n")).owned_by == "partitiond"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("x")


async def test_the_engine_gets_its_own_name_for_the_model_and_the_clients_bytes_otherwise(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(
        table(replica(engine), replica(engine, "a-1", "alias"), models=ALIASED)
    )
    async with proxy.client as client:
        await client.post("/v1/completions", json={"model": "alias", "prompt": "hi", "top_k": 3})
    assert engine.received[0].body == {"model": "m", "prompt": "hi", "top_k": 3}
    assert engine.received[0].path == "/v1/completions"


ALIASED = ("m", "alias")


async def answers(proxy: Proxy, path: str, *bodies: bytes | dict[str, Any]) -> list[httpx.Response]:
    """What is answered to each of these bodies."""
    headers = {"content-type": "application/json"}
    async with proxy.client as client:
        return [
            await client.post(
                path, content=one if isinstance(one, bytes) else json.dumps(one), headers=headers
            )
            for one in bodies
        ]


WRONG = [
    (b"{", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b"\xff\xfe", "invalid_json", None),
    (b"[" * 100_000, "invalid_json", None),
    (b'{"model":"m","x":' + b"[" * 100 + b"]" * 100 + b"}", "invalid_json", None),
    (b'{"prompt":"hi"}', "invalid_value", "model"),
    (b'{"model":3,"prompt":"hi"}', "invalid_value", "model"),
    (b'{"model":"m","prompt_embeds":["a","b"]}', "invalid_value", "prompt_embeds"),
    (b'{"model":"m","prompt":[],"prompt_embeds":"a"}', "invalid_value", "prompt_embeds"),
    (b'{"model":"m","prompt":{}}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":0}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":false}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":[1,"x"]}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":[[],"x"]}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":[[],["x"]]}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":[null]}', "invalid_value", "prompt"),
    (b'{"model":"m","prompt":"x","n":0}', "invalid_value", "n"),
    (b'{"model":"m","prompt":"x","n":1000000}', "invalid_value", "n"),
    (b'{"model":"m","prompt":"x","n":true}', "invalid_value", "n"),
    (b'{"model":"m","prompt":["x","y","z"],"n":100}', "invalid_value", "n"),
    (b'{"model":"m","prompt":"x","max_tokens":-1}', "invalid_value", "max_tokens"),
    (b'{"model":"m","prompt":"x","max_tokens":1e99}', "invalid_value", "max_tokens"),
    (b'{"model":"m","prompt":"x","max_tokens":1.5}', "invalid_value", "max_tokens"),
    (b'{"model":"m","prompt":"x","max_tokens":true}', "invalid_value", "max_tokens"),
    (b'{"model":"m","prompt":"x","stream":"yes"}', "invalid_value", "stream"),
    (json.dumps({"model": "m", "prompt": ["x"] * 999}).encode(), "invalid_value", "prompt"),
]


async def test_wrong_requests_are_refused_before_an_engine_sees_them(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    told = await answers(proxy, "/v1/completions", *(body for body, _, _ in WRONG))
    found = [(one.status_code, error_of(one)["code"], error_of(one)["param"]) for one in told]
    assert found == [(400, code, param) for _, code, param in WRONG]
    assert not engine.received


TOO_LARGE = [
    b'"n":%b' % (b"9" * 5000),
    b'"prompt":[1,-%b]' % (b"9" * 5000),
    b'"max_tokens":1e999',
    b'"stream_options":{"x":%b}' % (b"9" * 5000),
    # Read only because of the brackets before it, or because the body is written anew.
    b'"x":[%b%b]' % (b"[]," * 70, b"9" * 5000),
    b'"model":"alias","x":1e999',
]


async def test_a_number_beyond_all_readers_is_refused_by_that_reason(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(
        table(replica(engine), replica(engine, "a-1", "alias"), models=ALIASED)
    )
    bodies = [b'{"model":"m","prompt":"x",' + field + b"}" for field in TOO_LARGE]
    for response in await answers(proxy, "/v1/completions", *bodies):
        assert response.status_code == 400
        error = error_of(response)
        assert error["code"] == "invalid_json"
        assert error["message"].startswith("A number in the body is too large to be read: ")
    assert not engine.received


async def test_large_numbers_that_can_be_read_reach_the_engine(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(
        table(replica(engine), replica(engine, "a-1", "alias"), models=ALIASED)
    )
    bodies = [{"model": model, "prompt": "x", "seed": 10**40} for model in ALIASED]
    for response in await answers(proxy, "/v1/completions", *bodies):  # as it came, and anew
        assert response.status_code == 200
    assert [request.body["seed"] for request in engine.received] == [10**40] * 2


EMPTY: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {}),
    ("/v1/completions", {"prompt": None}),
    ("/v1/completions", {"prompt": ""}),
    ("/v1/completions", {"prompt": []}),
    ("/v1/completions", {"prompt": [[]]}),
    ("/v1/completions", {"prompt": [[], [1]]}),
    ("/v1/chat/completions", {}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions/batch", {}),
    ("/v1/chat/completions/batch", {"messages": None}),
    ("/v1/chat/completions/batch", {"messages": []}),
    ("/v1/chat/completions/batch", {"messages": [[], [{"role": "user"}]]}),
    ("/v1/messages", {"messages": [], "max_tokens": 5}),
    ("/v1/responses", {}),
    ("/v1/responses", {"input": ""}),
    ("/v1/responses", {"input": []}),
    ("/v1/embeddings", {"input": []}),
]


async def test_an_empty_prompt_is_refused_in_the_engines_own_words(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    said = {"error": {"message": "Nothing to say?", "type": "BadRequestError", "code": 400}}
    engine = await make_engine(lambda _: answer(said, 400, "Bad Request"))
    proxy = await make_proxy(table(replica(engine)))
    for path, empty in EMPTY:
        (response,) = await answers(proxy, path, {"model": "m", **empty})
        assert (response.status_code, response.json()) == (400, said), (path, empty)
        assert engine.received[-1].body == {"model": "m", **empty}
    assert len(engine.received) == len(EMPTY)
    assert proxy.idle()


async def test_a_chat_needs_messages(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    values: list[Any] = [False, {}, "", "hi", [1]]
    bodies = [{"model": "m", "messages": value} for value in values]
    for response in await answers(proxy, "/v1/chat/completions", *bodies):
        assert (response.status_code, error_of(response)["param"]) == (400, "messages")


async def test_an_unknown_model_is_404_in_openais_shape(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    async with proxy.openai() as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.completions.create(model="nope", prompt="hi")
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


UNKNOWN = [
    "/", "/metrics", "/v1", "/v1/completions/", "/v1//completions", "//v1/completions",
    "/v1/%2e%2e/v1/completions", "/v1/completions%2f",
    "/v1/%63ompletion%73x", "/V1/completions", "/invocations", "/ping",
    "/routing", "/state", "/shutdown", "/v1/completions%00", "/v1/completions%252f..",
    "/v1/completions;x", "/v1/audio/speech", "/docs", "/redoc",
]  # fmt: skip


async def test_only_the_allow_list_can_be_reached(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        for path, method in itertools.product(UNKNOWN, ("GET", "POST", "PUT")):
            response = await client.request(
                method,
                httpx.URL(proxy.url).copy_with(raw_path=path.encode()),
                json={"model": "m", "prompt": "hi"},
            )
            assert response.status_code == 404, (path, method)
            assert error_of(response)["code"] == "unknown_url"
    assert not engine.received


async def test_an_escaped_path_is_matched_as_authentication_sees_it(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine), keys_required=True))
    url = httpx.URL(proxy.url).copy_with(raw_path=b"/v1/completion%73")
    async with proxy.client as client:
        response = await client.post(url, json={"model": "m", "prompt": "hi"})
    assert response.status_code == 401
    assert not engine.received


async def test_wrong_methods_are_405(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    async with proxy.client as client:
        for method, path, allow in (
            ("GET", "/v1/completions", "POST"),
            ("POST", "/v1/models", "GET"),
            ("PUT", "/healthz", "GET"),
            ("POST", "/health", "GET"),
        ):
            response = await client.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allow)
            assert error_of(response)["code"] == "method_not_allowed"


async def test_keys_are_required_and_scoped(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    engine = await make_engine()
    keys = (KeyRoute("all", sha("sk-all")), KeyRoute("n-only", sha("sk-n"), ("n",)))
    proxy = await make_proxy(
        table(replica(engine), keys=keys, keys_required=True, models=("m", "n"))
    )
    async with proxy.openai("sk-all") as client:
        assert (await client.completions.create(model="m", prompt="hi")).choices
    async with proxy.openai("sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            await client.completions.create(model="m", prompt="hi")
        assert raised.value.code == "invalid_api_key"
    async with proxy.openai("sk-n") as client:
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="m", prompt="hi")
        assert [model.id async for model in client.models.list()] == ["n"]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("m")
    assert len(engine.received) == 1


NO_KEYS: list[list[tuple[str, str]]] = [
    [],
    [("authorization", "sk-all")],
    [("authorization", "Basic sk-all")],
    [("authorization", "Bearer sk-al")],
    [("authorization", "Bearer sk-all"), ("authorization", "Bearer sk-all")],
    [("x-api-key", "sk-al")],
    [("x-api-key", "sk-all"), ("authorization", "Bearer sk-all")],
]


async def test_what_is_no_key_gets_401(make_proxy: MakeProxy) -> None:
    keys = (KeyRoute("all", sha("sk-all")),)
    proxy = await make_proxy(table(keys=keys, keys_required=True))
    asked = (("POST", "/v1/completions"), ("GET", "/v1/models"))
    async with proxy.client as client:
        for headers, (method, path) in itertools.product(NO_KEYS, asked):
            response = await client.request(
                method, path, headers=[*headers, ("content-type", "application/json")]
            )
            assert response.status_code == 401, headers
            assert error_of(response)["code"] == "invalid_api_key"


async def test_without_required_keys_any_key_will_do_but_known_ones_keep_their_scope(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    keys = (KeyRoute("n-only", sha("sk-n"), ("n",)),)
    proxy = await make_proxy(table(replica(await make_engine()), keys=keys, models=("m", "n")))
    async with proxy.openai("whatever") as client:
        assert (await client.completions.create(model="m", prompt="hi")).choices
    async with proxy.openai("sk-n") as client:
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="m", prompt="hi")


async def test_large_bodies_are_refused_with_and_without_a_declared_length(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)), max_body_bytes=10_000)

    async def endless() -> Any:
        for _ in range(30):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    async with proxy.client as client:
        declared = await client.post("/v1/completions", content=b" " * 20_000, headers=headers)
    async with proxy.client as client:
        undeclared = await client.post("/v1/completions", content=endless(), headers=headers)
    for response in (declared, undeclared):
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
    assert not engine.received


async def test_other_content_types_and_encodings_are_refused(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    body = json.dumps({"model": "m", "prompt": "hi"}).encode()
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ):
        async with proxy.client as client:
            response = await client.post("/v1/completions", content=body, headers=headers)
        assert response.status_code == 415
        assert error_of(response)["code"] == "unsupported_media_type"


async def test_a_model_without_a_replica_is_503_with_a_time(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy()
    states = (ModelAvailability.STARTING, ModelAvailability.UNAVAILABLE)
    for version, availability in enumerate(states, 1):
        routes = table(availability=availability, retry_after_seconds=7, version=version)
        proxy.state.apply(routes)
        response = await proxy.complete()
        assert response.status_code == 503
        assert error_of(response)["code"] == availability.value
        assert response.headers["retry-after"] == "7"


async def test_a_proxy_that_knows_no_table_yet_says_so(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy()
    for path in ("/healthz", "/health"):
        async with proxy.client as client:
            assert (await client.get(path)).status_code == 503
    proxy.state.apply(table())
    for path in ("/healthz", "/health"):
        async with proxy.client as client:
            assert (await client.get(path)).json() == {"status": "ok"}


async def test_an_engines_complaint_is_passed_on_in_openais_shape(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    complaint = {"error": {"message": "too long", "type": "BadRequestError", "param": None,
                           "code": 400}}  # fmt: skip
    for payload, message in (
        (complaint, "too long"),
        ({"detail": "no gzip"}, "no gzip"),
        ({"error": "Unauthorized"}, "Unauthorized"),
        (b"<html>", "The engine answered with status 400."),
    ):
        engine = await make_engine(lambda _, p=payload: answer(p, 400, "Bad Request"))
        proxy = await make_proxy(table(replica(engine)))
        for stream in (False, True):
            response = await proxy.complete(stream=stream)
            assert response.status_code == 400
            assert error_of(response)["message"] == message
            assert proxy.idle()
        assert len(engine.received) == 2, "the request's own fault is not retried"
        await engine.stop()


async def test_each_request_is_logged_once_without_its_body(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda request: [0.5, *well_behaved(request)])
    proxy = await make_proxy(table(replica(engine)))
    response = await proxy.complete(prompt="a secret prompt")
    await proxy.stream_text()
    await proxy.until(lambda: len(proxy.log_lines) == 2)
    first, second = map(json.loads, proxy.log_lines)
    assert first["request_id"] == response.headers["x-request-id"]
    assert (first["outcome"], first["replica"], first["status"]) == ("ok", "m-1", 200)
    assert second["chunks"] >= 1
    assert second["ttft_seconds"] == pytest.approx(0.5)
    assert "secret" not in "".join(proxy.log_lines)
    assert "hello" not in "".join(proxy.log_lines)


async def test_metrics_count_requests_tokens_and_refusals(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy = await make_proxy(table(replica(await make_engine())))
    await proxy.complete()
    await proxy.stream_text()
    await proxy.complete(n=0)
    samples = parse_samples(proxy.state.metrics.text().decode())
    assert samples['partitiond_proxy_requests_total{model="m",outcome="ok"}'] == 2
    assert samples['partitiond_proxy_refusals_total{reason="invalid_value"}'] == 1
    assert samples["partitiond_proxy_ttft_seconds_count"] == 1
    assert samples["partitiond_proxy_e2e_seconds_count"] == 2
    assert samples["partitiond_proxy_output_tokens_total"] == 2 + 3
    assert samples['partitiond_proxy_in_flight{replica="m-1"}'] == 0


async def test_no_key_and_a_wrong_key_are_told_apart(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(keys_required=True))
    async with proxy.client as client:
        none = await client.get("/v1/models")
        wrong = await client.get("/v1/models", headers={"authorization": "Bearer sk-x"})
    assert (none.status_code, wrong.status_code) == (401, 401)
    assert "No API key was given" in error_of(none)["message"]
    assert "Incorrect API key" in error_of(wrong)["message"]
    for response in (none, wrong):
        assert "`partitiond keys create`" in error_of(response)["message"]
