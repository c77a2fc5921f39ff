"""POST /models/{name}/sleep and /wake put a model to sleep and wake it."""

import httpx

BODY = {"model": "opt-125m", "weights": "dummy", "engine_kind": "simulated"}


async def test_a_model_with_sleep_mode_is_put_to_sleep_and_woken(http: httpx.AsyncClient) -> None:
    await http.post("/models", json=BODY | {"engine": {"sleep_mode": True}})
    for wrong in ({"level": 3}, {"level": 0}, {"level": "deep"}, {"depth": 1}):
        assert (await http.post("/models/opt-125m/sleep", json=wrong)).status_code == 422
    first = await http.post("/models/opt-125m/sleep")
    assert (first.status_code, first.json()["asleep"]) == (202, 1)
    assert (await http.post("/models/opt-125m/sleep", json={"level": 1})).status_code == 202
    assert (await http.post("/models/opt-125m/sleep", json={"level": 2})).status_code == 409
    for _ in range(2):
        awake = await http.post("/models/opt-125m/wake")
        assert (awake.status_code, awake.json()["asleep"]) == (202, 0)


async def test_who_cannot_sleep_is_refused_with_what_to_do(http: httpx.AsyncClient) -> None:
    await http.post("/models", json=BODY)
    answer = await http.post("/models/opt-125m/sleep")
    assert answer.status_code == 409
    assert "--sleep-mode" in answer.json()["hint"]
    for verb in ("sleep", "wake"):
        assert (await http.post(f"/models/nobody/{verb}")).status_code == 404
