"""Bodies beyond the bound are refused before they are held in memory."""

from collections.abc import AsyncIterator

import httpx

from partitiond.api.limits import MAX_BODY_BYTES

JSON = {"Content-Type": "application/json"}


async def test_a_body_beyond_the_bound_is_refused_when_it_is_reached(
    http: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * (1024 * 1024)

    for content in (b" " * (MAX_BODY_BYTES + 1), chunks()):
        answer = await http.post("/models", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.json()["hint"]
    within = b'{"model": "opt-125m"}' + b" " * (MAX_BODY_BYTES - 100)
    assert (await http.post("/models", content=within, headers=JSON)).status_code == 201
