"""Pages of other origins and clients behind reverse proxies work over real sockets, off and on.

What is allowed `test_origins` says; here, that each answer is asked about.
"""

from typing import Any

import httpx

from tests.proxy.conftest import Make, Proxy

PAGE = "https://chat.example"
EVIL = "https://evil.example"
ALLOW = "access-control-allow-origin"
LOCKED = {"keys_required": True}


async def call(
    proxy: Proxy, method: str = "POST", path: str = "/v1/completions", *, origin: str = PAGE,
    headers: dict[str, str] | None = None, **body: Any,
) -> httpx.Response:  # fmt: skip
    """As a browser sends it for a page."""
    sent = {"Origin": origin, **(headers or {})}
    if method == "POST":
        return await proxy.complete(path, headers=sent, **body)
    async with proxy.client as client:
        return await client.request(method, path, headers=sent)


async def preflight(
    proxy: Proxy, path: str, origin: str = PAGE, headers: str = "authorization,content-type"
) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return await call(proxy, "OPTIONS", path, origin=origin, headers=asked)


def cross_origin_headers(answer: httpx.Response) -> list[str]:
    return [name for name in answer.headers if name.startswith("access-control-")]


async def test_it_is_off_by_default(make: Make) -> None:
    proxy, _ = await make.both()
    refused = await preflight(proxy, "/v1/completions")
    assert refused.status_code == 405
    for got in (
        refused,
        await call(proxy),
        await call(proxy, stream=True),
        await call(proxy, "GET", "/v1/models"),
    ):
        assert not cross_origin_headers(got)
        assert "vary" not in got.headers


async def test_every_answer_to_a_listed_page_says_so(make: Make) -> None:
    proxy, _ = await make.both(cors_origins=(PAGE,))
    locked, _ = await make.both(cors_origins=(PAGE,), route=LOCKED)
    for got, status in (
        (await call(proxy), 200),
        (await call(proxy), 200),  # by a head that is known
        (await call(proxy, stream=True), 200),
        (await call(proxy, model="none"), 404),
        (await call(proxy, headers={"Content-Type": "text/plain"}), 415),
        (await call(proxy, "GET", "/v1/models"), 200),
        (await call(proxy, "GET", "/v1/models/none"), 404),
        (await call(proxy, "GET", "/nothing"), 404),
        (await call(proxy, "GET", "/v1/completions"), 405),
        (await call(proxy, headers={"X-Long": "x" * 40_000}), 431),
        (await call(locked, headers={"Authorization": "Bearer sk-wrong"}), 401),
        (await call(locked, "GET", "/v1/models"), 401),
    ):
        assert (got.status_code, got.headers[ALLOW]) == (status, PAGE)
        assert got.headers["vary"] == "Origin"
        assert "x-request-id" in got.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in got.headers


async def test_no_answer_to_another_page_does(make: Make) -> None:
    proxy, _ = await make.both(cors_origins=(PAGE,))
    for got in (
        await call(proxy, origin=EVIL),
        await call(proxy, stream=True, origin=EVIL),
        await call(proxy, model="none", origin=EVIL),
        await call(proxy, "GET", "/v1/models", origin=EVIL),
        await call(proxy, origin="null"),
    ):
        assert not cross_origin_headers(got)
        assert got.headers["vary"] == "Origin", "a cache must not give it to the listed page"


async def test_a_preflight_is_answered_without_a_key(make: Make) -> None:
    proxy, _ = await make.both(cors_origins=(PAGE,), route=LOCKED)
    for path in ("completions", "chat/completions", "embeddings", "models", "models/m"):
        got = await preflight(proxy, f"/v1/{path}")
        assert (got.status_code, got.content, got.headers[ALLOW]) == (204, b"", PAGE)
        assert got.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in got.headers["access-control-allow-methods"]
        assert int(got.headers["access-control-max-age"]) > 0
        assert not {"content-length", "transfer-encoding"} & set(got.headers)


async def test_a_preflight_that_is_refused_tells_the_page_nothing(make: Make) -> None:
    proxy, _ = await make.both(cors_origins=(PAGE,))
    for got, status in (
        (await preflight(proxy, "/v1/completions", EVIL), 405),
        (await preflight(proxy, "/v1/completions", headers='a"b'), 405),
        (await preflight(proxy, "/v1/models", EVIL), 405),
        (await preflight(proxy, "/nothing"), 404),
        (await preflight(proxy, "/metrics"), 404),
    ):
        assert (got.status_code, cross_origin_headers(got)) == (status, [])
