"""Bodies beyond the bound are refused before they are held in memory."""

from collections.abc import AsyncIterator

import httpx

from partitiond.api.limits import MAX_BODY_BYTES

JSON = {"Content-Type": "application/json"}


async def test_a_declared_length_beyond_the_bound_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/models", content=b" " * (MAX_BODY_BYTES + 1), headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert answer.json()["hint"]


async def test_an_undeclared_length_is_refused_when_it_is_reached(
    http: httpx.AsyncClient,
) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * (1024 * 1024)

    answer = await http.post("/models", content=chunks(), headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


async def test_a_body_within_the_bound_is_read(http: httpx.AsyncClient) -> None:
    content = b'{"model": "opt-125m"}' + b" " * (MAX_BODY_BYTES - 100)
    answer = await http.post("/models", content=content, headers=JSON)
    assert answer.status_code == 201
