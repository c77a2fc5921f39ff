"""Clients see the right routes and shapes; keys and paths are in `tests/security`."""

from typing import Any

import httpx
import openai
import pytest

from partitiond.core.dispatch.routing import ModelAvailability, RequestLimits
from tests.proxy.conftest import Make, Proxy, key, replica, table
from tests.proxy.scripted import ScriptedEngine, answer, plays, well_behaved

MESSAGES: Any = [{"role": "user", "content": "hi"}]
ALIASED = ("m", "alias")


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, after checking that its shape is OpenAI's and that it has a request id."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"].startswith("req-")
    error: dict[str, Any] = body["error"]
    return error


@pytest.fixture
async def engine(make: Make) -> ScriptedEngine:
    return await make.engine()


@pytest.fixture
async def proxy(make: Make, engine: ScriptedEngine) -> Proxy:
    """Its engine knows the second model by the first one's name."""
    return await make.proxy(table(replica(engine), replica(engine, "a-1", "alias"), models=ALIASED))


async def test_the_openai_client_completes_chats_streams_and_finds_models(proxy: Proxy) -> None:
    async with proxy.openai() as client:
        completion = await client.completions.create(model="m", prompt="hi")
        chat = await client.chat.completions.create(model="m", messages=MESSAGES)
        stream = await client.completions.create(model="m", prompt="hi", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
        chats = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in chats])
        assert [model.id async for model in client.models.list()] == ["m", "alias"]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("x")
        with pytest.raises(openai.NotFoundError) as raised:
            await client.completions.create(model="nope", prompt="hi")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert completion._request_id is not None
    whole = completion.choices[0].text, chat.choices[0].message.content
    assert (*whole, text, said) == ("hello",) * 4
    assert proxy.idle()


async def test_a_models_card_says_its_context_and_what_an_alias_stands_for(make: Make) -> None:
    """As vLLM's card, whose `max_model_len` clients read; null where a table of old has none."""
    named: dict[str, Any] = {"aliases": ("gpt-4o",), "max_model_len": 8192}
    proxy = await make.proxy(table(models=("m",), availability=ModelAvailability.SLEEPING, **named))
    card = {
        "id": "m", "object": "model", "created": 1700000000, "owned_by": "partitiond",
        "root": "m", "parent": None, "max_model_len": 8192,
    }  # fmt: skip
    async with proxy.client as client:
        assert (await client.get("/v1/models")).json() == {
            "object": "list", "data": [card | {"id": "gpt-4o"}, card],
        }  # fmt: skip
        assert (await client.get("/v1/models/gpt-4o")).json() == card | {"id": "gpt-4o"}
        deep = {**named, "aliases": ("@cf/org/gpt-4o", "/models/gpt-4o")}
        proxy.state.apply(table(models=("m",), availability=ModelAvailability.SLEEPING, **deep))
        for path, name in (
            ("@cf/org/gpt-4o", "@cf/org/gpt-4o"),
            ("%2Fmodels%2Fgpt-4o", "/models/gpt-4o"),
        ):
            assert (await client.get(f"/v1/models/{path}")).json()["id"] == name
        proxy.state.apply(table(models=("m",), version=2))
        assert (await client.get("/v1/models/m")).json() == card | {"max_model_len": None}


async def test_the_engine_gets_its_own_name_for_the_model_and_the_clients_bytes_otherwise(
    proxy: Proxy, engine: ScriptedEngine
) -> None:
    await proxy.complete(model="alias", top_k=3)
    assert engine.received[0].body == {"model": "m", "prompt": "hi", "top_k": 3}
    assert engine.received[0].path == "/v1/completions"


async def test_wrong_requests_are_refused_before_an_engine_sees_them(make: Make) -> None:
    """What is wrong `test_requests` says; here, that it is asked, with both kinds of limits."""
    of_key, of_model = RequestLimits(max_output_tokens=5), RequestLimits(max_prompt_bytes=9)
    proxy, engine = await make.both(route={"keys": (key(limits=of_key),), "limits": of_model})
    for wrong, param, code in (
        ({"prompt": {}}, "prompt", "invalid_value"),
        ({"max_tokens": 6}, "max_tokens", "too_many_tokens"),
        ({"prompt": "x" * 10}, None, "prompt_too_long"),
    ):
        refused = await proxy.complete(key="k1", **wrong)
        error = error_of(refused)
        assert (refused.status_code, error["param"], error["code"]) == (400, param, code)
    assert not engine.received
    assert (await proxy.complete(key="k1")).status_code == 200
    assert engine.received[0].body["max_tokens"] == 5


async def test_one_keys_odd_prompts_move_no_other_keys_estimates(make: Make) -> None:
    proxy, _ = await make.both(route={"keys": (key(), key("k2"))})
    figures = proxy.state.models["m"].figures
    for _ in range(20):
        await proxy.complete(key="k1", prompt="x" * 20)
    assert figures.of("k1").prompt.value < 0.3
    assert figures.of("k2").prompt.value == figures.of("").prompt.value == 0.3


async def test_an_answer_has_an_id_of_its_own_and_a_stream_is_not_held_back(proxy: Proxy) -> None:
    whole, streamed = await proxy.complete(), await proxy.complete(stream=True)
    refused = await proxy.complete(model="other")
    assert len({one.headers["x-request-id"] for one in (whole, streamed, refused)}) == 3
    assert {*whole.headers} == {"content-length", "content-type", "date", "x-request-id"}
    assert whole.headers["content-length"] == str(len(whole.content))
    told = streamed.headers
    assert told["content-type"].startswith("text/event-stream")
    assert (told["transfer-encoding"], told["cache-control"]) == ("chunked", "no-cache")
    assert told["x-accel-buffering"] == "no"
    assert "content-length" not in told


@pytest.mark.parametrize("stream", [False, True])
async def test_replica_and_times_are_told_when_asked(proxy: Proxy, stream: bool) -> None:
    asked = await proxy.complete(stream=stream, headers={"x-partitiond-debug": "1"})
    assert asked.headers["x-partitiond-replica"] == "m-1"
    assert asked.headers["x-partitiond-attempts"] == "1"
    queued = float(asked.headers["x-partitiond-queue-ms"])
    assert 0 <= queued <= float(asked.headers["x-partitiond-first-byte-ms"])
    plain = await proxy.complete(stream=stream, headers={"x-partitiond-debug": "0"})
    for told in (plain, await proxy.complete(stream=stream)):
        assert not [name for name in told.headers if name.startswith("x-partitiond")]


async def test_wrong_methods_are_405(proxy: Proxy) -> None:
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


async def test_without_required_keys_any_key_will_do_but_known_ones_keep_their_scope(
    make: Make,
) -> None:
    route = {"keys": (key("sk-n", models=("n",)),), "models": ("m", "n")}
    proxy, _ = await make.both(route=route)
    assert (await proxy.complete(key="whatever")).status_code == 200
    assert (await proxy.complete(key="sk-n")).status_code == 404


async def test_no_key_and_a_wrong_key_are_told_apart(make: Make) -> None:
    proxy = await make.proxy(table(keys_required=True))
    for words, given in (("No API key was given", ""), ("Incorrect API key", "sk-x")):
        refused = await proxy.complete(key=given)
        assert refused.status_code == 401
        assert words in error_of(refused)["message"]
        assert "`partitiond keys create`" in error_of(refused)["message"]


async def test_health_is_known_with_the_first_table_and_a_model_that_starts_is_refused(
    make: Make,
) -> None:
    proxy = await make.proxy()
    for status in (503, 200):
        async with proxy.client as client:
            for path in ("/healthz", "/health"):
                health, head = await client.get(path), await client.head(path)
                assert (health.status_code, head.status_code, head.content) == (status, status, b"")
        starts: Any = {"availability": ModelAvailability.STARTING, "retry_after_seconds": 7}
        proxy.state.apply(table(keys=(key(),), keys_required=True, **starts))
    assert health.json() == {"status": "ok"}
    refused = await proxy.complete(key="k1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert error_of(refused)["code"] == "model_starting"


async def test_errors_of_messages_have_anthropics_shape_on_every_way_out(make: Make) -> None:
    """Responses are OpenAI's, and so are their errors."""
    proxy, engine = await make.both(plays(*answer({"error": {"message": "no"}}, 400, "Bad")))
    too_large = {"x": "y" * 70_000}
    async with proxy.client as client:
        for name, anthropics in (("messages", True), ("responses", False)):
            path = f"/v1/{name}"
            for response, status, kind in (
                (await client.get(path), 405, "api_error"),
                (await client.get(f"{path}/batches"), 404, "not_found_error"),
                (await client.get(path, headers=too_large), 431, "api_error"),
                (await client.get(path, headers={"expect": "x"}), 417, "api_error"),
                (await client.post(path, content=b"{}"), 415, "api_error"),
                (await proxy.complete(path), 400, "invalid_request_error"),
                (await proxy.complete(path, stream=True), 400, "invalid_request_error"),
                (await proxy.complete(path, model="x"), 404, "not_found_error"),
            ):
                told = response.json()
                assert response.status_code == status
                assert (told.get("type"), told["error"]["message"] != "") == (
                    "error" if anthropics else None, True,
                )  # fmt: skip
                assert not anthropics or told["error"]["type"] == kind
    assert len(engine.received) == 4
    assert proxy.idle()


async def test_an_engines_complaint_is_passed_on_in_openais_shape(make: Make) -> None:
    complaint = {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    proxy, engine = await make.both()
    for payload, message in (
        ({"error": complaint}, "too long"),
        ({"detail": "no gzip"}, "no gzip"),
        ({"error": "Unauthorized"}, "Unauthorized"),
        (b"<html>", "The engine answered with status 400."),
    ):
        engine.script = lambda _, p=payload: answer(p, 400, "Bad Request")  # type: ignore[misc]
        before = len(engine.received)
        for stream in (False, True):
            response = await proxy.complete(stream=stream)
            assert (response.status_code, error_of(response)["message"]) == (400, message)
        assert len(engine.received) == before + 2, "the request's own fault is not retried"
    assert proxy.idle()


async def test_each_request_is_logged_once_without_its_body_and_counted(make: Make) -> None:
    proxy, _ = await make.both(lambda request: [0.5, *well_behaved(request)])
    response = await proxy.complete(prompt="a secret prompt")
    await proxy.stream_text()
    first, second = proxy.records()
    assert first["request_id"] == response.headers["x-request-id"]
    assert (first["outcome"], first["replica"], first["status"]) == ("ok", "m-1", 200)
    assert second["ttft_seconds"] == pytest.approx(0.5)
    assert "secret" not in "".join(proxy.log_lines)
    assert "hello" not in "".join(proxy.log_lines)
    await proxy.complete(n=0)
    counted = {
        ("requests_total", "model", "m", "outcome", "ok"): 2,
        ("refusals_total", "reason", "invalid_value"): 1,
        ("ttft_seconds_count",): 1,
        ("e2e_seconds_count",): 2,
        ("output_tokens_total",): 2 + 3,
        ("in_flight", "replica", "m-1"): 0,
    }
    for (name, *labels), count in counted.items():
        named = dict(zip(labels[::2], labels[1::2], strict=True))
        assert proxy.metric(f"partitiond_proxy_{name}", **named) == count, name
