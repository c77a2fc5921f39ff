"""Requests above the output limit are refused; requests that name none get the limit."""

import hashlib
from typing import Any

import pytest

from partitiond.core.dispatch.routing import KeyRoute, RequestLimits
from tests.proxy.conftest import MakeEngine, MakeProxy, replica, table

PATHS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/completions": ({"prompt": "hi"}, "max_tokens"),
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": "hi"}]},
        "max_completion_tokens",
    ),
    "/v1/chat/completions/batch": (
        {"messages": [[{"role": "user", "content": "hi"}]]},
        "max_completion_tokens",
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "case",
    [
        (10, 0, "", None, 10),
        (0, 5, "", None, 5),
        (10, 5, "", None, 5),
        (10, 0, "", 10, 10),
        (10, 0, "", 11, 400),
        (0, 5, '{"max_tokens":9}', None, 5),
        (0, 5, '{"max_tokens":3}', None, None),
        (0, 5, '{"max_tokens":3}', 6, 400),
        (0, 5, '{"max_tokens":9}', 4, None),
    ],
)
async def test_a_request_that_names_no_limit_gets_the_strictest(
    make_engine: MakeEngine,
    make_proxy: MakeProxy,
    path: str,
    case: tuple[int, int, str, int | None, int | None],
) -> None:
    """`expected`: what the engine reads, None for the default or the request's own, or a status."""
    model_limit, key_limit, default, own, expected = case
    body, field = PATHS[path]
    asked: dict[str, Any] = {"model": "m", **body} | ({} if own is None else {"max_tokens": own})
    engine = await make_engine()
    key = KeyRoute(
        "k1",
        hashlib.sha256(b"sk-1").hexdigest(),
        limits=RequestLimits(max_output_tokens=key_limit),
    )
    proxy = await make_proxy(
        table(
            replica(engine),
            keys=(key,),
            limits=RequestLimits(max_output_tokens=model_limit),
            defaults_json=default,
        )
    )
    async with proxy.client as client:
        reply = await client.post(path, json=asked, headers={"authorization": "Bearer sk-1"})
    if expected == 400:
        assert reply.json()["error"]["code"] == "too_many_tokens"
        assert engine.received == []
        return
    assert reply.status_code == 200
    got = engine.received[0].body
    if expected is None or own is not None:
        assert got["max_tokens"] == (own or 3)
        assert "max_completion_tokens" not in got
    else:
        assert got[field] == expected
