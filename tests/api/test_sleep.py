"""POST /models/{name}/sleep and /wake put a model to sleep and wake it."""

from typing import Any

import httpx
import pytest

BODY = {"model": "opt-125m", "weights": "dummy", "engine_kind": "simulated"}


async def register(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/models", json=BODY | body)


async def test_a_model_with_sleep_mode_is_put_to_sleep_and_woken(http: httpx.AsyncClient) -> None:
    await register(http, engine={"sleep_mode": True})
    first = await http.post("/models/opt-125m/sleep")
    assert (first.status_code, first.json()["asleep"]) == (202, 1)
    again = await http.post("/models/opt-125m/sleep", json={"level": 1})
    assert again.status_code == 202
    other = await http.post("/models/opt-125m/sleep", json={"level": 2})
    assert other.status_code == 409
    awake = await http.post("/models/opt-125m/wake")
    assert (awake.status_code, awake.json()["asleep"]) == (202, 0)
    assert (await http.post("/models/opt-125m/wake")).status_code == 202


async def test_a_model_without_sleep_mode_is_refused_with_what_to_do(
    http: httpx.AsyncClient,
) -> None:
    await register(http)
    answer = await http.post("/models/opt-125m/sleep")
    assert answer.status_code == 409
    assert "--sleep-mode" in answer.json()["hint"]


@pytest.mark.parametrize("body", [{"level": 3}, {"level": 0}, {"level": "deep"}, {"depth": 1}])
async def test_levels_that_do_not_exist_are_refused(
    http: httpx.AsyncClient, body: dict[str, object]
) -> None:
    await register(http, engine={"sleep_mode": True})
    assert (await http.post("/models/opt-125m/sleep", json=body)).status_code == 422


@pytest.mark.parametrize("verb", ["sleep", "wake"])
async def test_an_unknown_model_is_not_found(http: httpx.AsyncClient, verb: str) -> None:
    assert (await http.post(f"/models/nobody/{verb}")).status_code == 404


async def test_the_idle_rule_needs_sleep_mode(http: httpx.AsyncClient) -> None:
    refused = await register(http, sleep_after_seconds=600)
    assert refused.status_code == 422
    taken = await register(http, sleep_after_seconds=600, engine={"sleep_mode": True})
    assert (taken.status_code, taken.json()["spec"]["sleep_after_seconds"]) == (201, 600)
    changed = await http.patch("/models/opt-125m", json={"sleep_after_seconds": None})
    assert changed.json()["spec"]["sleep_after_seconds"] is None


@pytest.mark.parametrize("seconds", [0, -1, 1e12])
async def test_an_idle_rule_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, seconds: float
) -> None:
    answer = await register(http, sleep_after_seconds=seconds, engine={"sleep_mode": True})
    assert answer.status_code == 422
