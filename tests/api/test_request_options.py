"""Registrations and patches accept aliases, default parameters and limits."""

from typing import Any

import httpx
import pytest

PARTS: dict[str, Any] = {
    "aliases": ["facebook/opt-125m", "gpt-mini"],
    "request_defaults": {"temperature": 0.2, "stop": ["\n"]},
    "request_limits": {"max_prompt_bytes": 0, "max_output_tokens": 64, "max_sequences": 0},
}


async def test_they_are_registered_and_sent_back(http: httpx.AsyncClient) -> None:
    made = await http.post("/models", json={"model": "opt-125m", **PARTS})
    assert made.status_code == 201, made.text
    spec = made.json()["spec"]
    assert {name: spec[name] for name in PARTS} == PARTS
    again = await http.post("/models", json={"model": "opt-125m", **PARTS})
    assert again.status_code == 200
    assert (await http.post("/models", json=spec)).status_code == 200, "what was read is a body"


async def test_a_patch_replaces_names_and_defaults_and_merges_limits(
    http: httpx.AsyncClient,
) -> None:
    await http.post("/models", json={"model": "opt-125m", **PARTS})
    body: dict[str, Any] = {"request_defaults": {"top_p": 0.5}}
    spec = (await http.patch("/models/opt-125m", json=body)).json()["spec"]
    assert spec["request_defaults"] == {"top_p": 0.5}
    assert spec["aliases"] == PARTS["aliases"]
    body = {"aliases": ["other"], "request_limits": {"max_sequences": 2}}
    spec = (await http.patch("/models/opt-125m", json=body)).json()["spec"]
    assert spec["aliases"] == ["other"]
    assert spec["request_limits"]["max_output_tokens"] == 64
    assert spec["request_limits"]["max_sequences"] == 2
    body = {"aliases": None, "request_defaults": None, "request_limits": None}
    record = (await http.patch("/models/opt-125m", json=body)).json()
    spec = record["spec"]
    assert (spec["aliases"], spec["request_defaults"]) == ([], {})
    assert set(spec["request_limits"].values()) == {0}
    again = await http.patch("/models/opt-125m", json=body)
    assert again.json()["version"] == record["version"], "nothing changed"


@pytest.mark.parametrize(
    "body",
    [
        {"aliases": ["a b"]},
        {"aliases": ["opt-125m"]},
        {"aliases": ["a", "a"]},
        {"aliases": ["a"] * 40},
        {"aliases": "a"},
        {"request_defaults": {"model": "x"}},
        {"request_defaults": {"messages": []}},
        {"request_defaults": {"stream": True}},
        {"request_defaults": {"tools": [{"type": "function"}]}},
        {"request_defaults": {"temperature": None}},
        {"request_defaults": {"a": "x" * 5000}},
        {"request_defaults": ["temperature"]},
        {"request_limits": {"max_output_tokens": -1}},
        {"request_limits": {"max_output_tokens": 10**30}},
        {"request_limits": {"requests_per_minute": 1}},
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_is_wrong_is_refused_with_words(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    refused = await http.post("/models", json={"model": "opt-125m", **body})
    assert refused.status_code == 422, refused.text
    assert refused.json()["detail"]
    made = await http.post("/models", json={"model": "opt-125m"})
    assert made.status_code == 201
    patched = await http.patch("/models/opt-125m", json=body)
    assert patched.status_code == 422, patched.text
    assert (await http.get("/models/opt-125m")).json()["record"]["version"] == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_json_does_not_have_are_no_defaults(
    http: httpx.AsyncClient, number: str
) -> None:
    text = '{"model": "opt-125m", "request_defaults": {"temperature": ' + number + "}}"
    answer = await http.post("/models", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
