"""Checks the part of the engine contract that concerns engines' output, byte by byte.

`test_engine_contract` runs this part on the engine that it has started.
"""

import asyncio
import json
from typing import Any, ClassVar

import httpx

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


async def events(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[str]:
    async with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line[6:] async for line in answer.aiter_lines() if line.startswith("data: ")]


async def named_events(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Events that have a name, each in two lines."""
    text = (await client.post(path, json=body)).text
    found = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        kind, data = event.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class TestStreams:
    """What the proxy relies on when it asks for usage, and takes it out again."""

    BODY: ClassVar[dict[str, Any]] = {
        "model": "tiny", "prompt": "Hello", "max_tokens": 3, "ignore_eos": True, "temperature": 0,
        "stream": True,
    }  # fmt: skip

    async def test_usage_moves_the_fingerprint_and_changes_nothing_else(
        self, client: httpx.AsyncClient
    ) -> None:
        asked = self.BODY | {"stream_options": {"include_usage": True}}
        plain = [json.loads(x) for x in (await events(client, "/v1/completions", self.BODY))[:-1]]
        told = [json.loads(x) for x in (await events(client, "/v1/completions", asked))[:-1]]
        assert set(told[-1]) == set(plain[0]) | {"usage", "system_fingerprint"}
        assert plain[-1]["system_fingerprint"] == told[-1]["system_fingerprint"]
        assert [x["choices"] for x in plain] == [x["choices"] for x in told[:-1]]
        for event in (*plain[:-1], *told[:-1]):
            assert set(event) == {"id", "object", "created", "model", "choices"}

    async def test_usage_in_every_event_only_where_it_is_asked_for_at_the_end_too(
        self, client: httpx.AsyncClient
    ) -> None:
        both = {"include_usage": True, "continuous_usage_stats": True}
        lines = await events(client, "/v1/completions", self.BODY | {"stream_options": both})
        told = [json.loads(line)["usage"]["completion_tokens"] for line in lines[:-1]]
        assert told == [1, 2, 3, 3]
        alone = self.BODY | {"stream_options": {"continuous_usage_stats": True}}
        lines = await events(client, "/v1/completions", alone)
        assert not any("usage" in json.loads(line) for line in lines[:-1])

    async def test_a_response_streams_named_events_and_ends_completed(
        self, client: httpx.AsyncClient
    ) -> None:
        body = {"model": "tiny", "input": "Hi", "max_output_tokens": 2, "stream": True}
        named = await named_events(client, "/v1/responses", body)
        assert [kind for kind, _ in named] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event["sequence_number"] for _, event in named] == list(range(len(named)))
        assert all(event["type"] == kind for kind, event in named)
        response = named[-1][1]["response"]
        assert (response["status"], response["usage"]["output_tokens"]) == ("incomplete", 2)

    async def test_messages_stream_named_events_and_end_with_a_stop(
        self, client: httpx.AsyncClient
    ) -> None:
        body = {"model": "tiny", "messages": HI, "max_tokens": 2, "stream": True}
        named = await named_events(client, "/v1/messages", body)
        assert [kind for kind, _ in named] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert all(event["type"] == kind for kind, event in named)
        assert named[-2][1]["usage"]["output_tokens"] == 2
        assert named[-2][1]["delta"]["stop_reason"] == "max_tokens"


class TestOtherRoutes:
    async def test_responses(self, client: httpx.AsyncClient) -> None:
        body = {"model": "tiny", "input": HI, "max_output_tokens": 3}
        answer = (await client.post("/v1/responses", json=body)).json()
        assert answer["object"] == "response"
        assert answer["output"][0]["content"][0]["type"] == "output_text"
        usage = answer["usage"]
        assert usage["output_tokens"] == 3
        assert usage["total_tokens"] == usage["input_tokens"] + 3

    async def test_messages_and_their_count(self, client: httpx.AsyncClient) -> None:
        body: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 3}
        answer = (await client.post("/v1/messages", json=body)).json()
        assert (answer["type"], answer["stop_reason"]) == ("message", "max_tokens")
        del body["max_tokens"]
        count = (await client.post("/v1/messages/count_tokens", json=body)).json()
        assert answer["usage"] == {"input_tokens": count["input_tokens"], "output_tokens": 3}

    async def test_tokens_turn_back_into_the_same_text_and_usage_counts_them(
        self, client: httpx.AsyncClient
    ) -> None:
        for text in ("Hello world", "", "Grüße, 世界 🌍", "a\n  b"):
            body = {"model": "tiny", "prompt": text}
            made = (await client.post("/tokenize", json=body)).json()
            assert made["count"] == len(made["tokens"])
            back = {"model": "tiny", "tokens": made["tokens"]}
            assert (await client.post("/detokenize", json=back)).json() == {"prompt": text}
            for prompt in (text, made["tokens"]) if text else ():
                asked = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
                answer = (await client.post("/v1/completions", json=asked)).json()
                assert answer["usage"]["prompt_tokens"] == made["count"]

    async def test_a_generating_engine_has_no_pooling(self, client: httpx.AsyncClient) -> None:
        for path in ("v1/embeddings", "score", "rerank", "v2/rerank", "pooling", "classify"):
            answer = await client.post(f"/{path}", json={"model": "tiny", "input": "Hi"})
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), path

    async def test_messages_have_errors_of_two_shapes(self, client: httpx.AsyncClient) -> None:
        long = [{"role": "user", "content": "word " * 3000}]
        for changes, shape in (
            ({"temperature": -1}, {"type", "error"}),
            ({"model": "other"}, {"type", "error"}),
            ({"messages": long}, {"type", "error"}),
            ({"max_tokens": 0}, {"error"}),
            ({"messages": "Hi"}, {"error"}),
        ):
            body = {"model": "tiny", "messages": HI, "max_tokens": 3} | changes
            answer = await client.post("/v1/messages", json=body)
            assert answer.status_code in {400, 404}
            assert set(answer.json()) == shape, changes

    async def test_the_request_id_becomes_the_answers(self, client: httpx.AsyncClient) -> None:
        headers = {"x-request-id": "abc-123"}
        body = {"model": "tiny", "prompt": "Hi", "max_tokens": 1}
        twice = await asyncio.gather(
            *(client.post("/v1/completions", json=body, headers=headers) for _ in range(2))
        )
        assert [answer.json()["id"] for answer in twice] == ["cmpl-abc-123"] * 2

    async def test_an_output_limit_beyond_the_room_is_cut(self, client: httpx.AsyncClient) -> None:
        body = {"model": "tiny", "prompt": [5] * 500, "max_tokens": 100, "ignore_eos": True}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert answer["usage"]["completion_tokens"] == 12

    async def test_numbers_and_booleans_may_be_in_quotes(self, client: httpx.AsyncClient) -> None:
        quoted = {"max_tokens": "2", "stream": "true", "ignore_eos": 1}
        body = {"model": "tiny", "prompt": "Hi", **quoted}
        assert len(await events(client, "/v1/completions", body)) == 3
