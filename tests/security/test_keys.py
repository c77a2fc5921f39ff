"""Keys are checked on the path that routing uses, on every route, and may change while in use."""

import asyncio
import hashlib
import hmac
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partitiond.core.dispatch.routing import KeyRates, RouteKind, RoutingTable
from partitiond.proxy.control import Plane, routes
from partitiond.proxy.keys.auth import Caller, KeyRing
from partitiond.proxy.request.routes import DATA_ROUTES
from tests.security.target import OTHER_MODEL, StrictEngine, Target, key, running
from tests.security.wire import Answer, Wire, exchange, post, status_of

MESSAGES = [{"role": "user", "content": "x"}]
FIELDS: dict[str, Any] = {
    "prompt": "x", "messages": MESSAGES, "input": "x", "text_1": "x", "text_2": "y",
    "query": "x", "documents": ["y"], "tokens": [1], "max_tokens": 4,
}  # fmt: skip


def request(secret: str | None, path: str = "/v1/completions", model: str = "m") -> bytes:
    headers = [] if secret is None else [f"authorization: Bearer {secret}".encode()]
    own = {"messages": [MESSAGES]} if path.endswith("/batch") else {}
    body = json.dumps({"model": model, **FIELDS, **own}).encode()
    return post(body, *headers, target=path.encode())


async def ask(
    proxy: Target, secret: str | None, path: str = "/v1/completions", model: str = "m"
) -> Answer:
    return await (await Wire.to(proxy.port)).ask(request(secret, path, model))


def code(answer: Answer) -> str:
    """Anthropic's shape has one more layer around the same fields."""
    return str(answer.json()["error"]["code"])


async def test_every_data_route_needs_a_key(proxy: Target, engine: StrictEngine) -> None:
    proxy.publish(keys=[key("sk-a")])
    for route in DATA_ROUTES:
        for secret in (None, "sk-wrong", ""):
            answer = await ask(proxy, secret, route.path)
            assert (answer.status, code(answer)) == (401, "invalid_api_key"), route
    assert engine.received == []
    for route in DATA_ROUTES:
        assert (await ask(proxy, "sk-a", route.path)).status == 200
    assert [seen.path for seen in engine.received] == [route.path for route in DATA_ROUTES]


async def test_a_model_of_another_key_is_as_unknown_as_one_that_is_not_there(
    proxy: Target, engine: StrictEngine
) -> None:
    proxy.publish(keys=[key("sk-a", models=("m",))])
    nowhere = "nowhere"[: len(OTHER_MODEL)]

    async def told(path: str, model: str) -> tuple[int, dict[str, str], bytes]:
        answer = await ask(proxy, "sk-a", path, model)
        assert code(answer) == "model_not_found"
        shown = {k: v for k, v in answer.headers.items() if k not in {"date", "x-request-id"}}
        return answer.status, shown, answer.body.replace(model.encode(), b"?")

    for route in DATA_ROUTES:
        forbidden = await told(route.path, OTHER_MODEL)
        assert forbidden[0] == 404
        assert forbidden == await told(route.path, nowhere), route
    assert engine.received == []


async def test_lists_show_only_what_the_key_may_use(proxy: Target) -> None:
    proxy.publish(keys=[key("sk-a", "a", models=("m",)), key("sk-b", "b")])

    async def listed(secret: str) -> list[str]:
        line = b"GET /v1/models HTTP/1.1"
        data = post(b"", f"authorization: Bearer {secret}".encode(), line=line, length=b"")
        return [m["id"] for m in (await exchange(proxy.port, data, 1)).answers[0].json()["data"]]

    assert await listed("sk-a") == ["m"]
    assert set(await listed("sk-b")) == {"m", OTHER_MODEL}
    for name in (OTHER_MODEL, "nowhere"):
        line = f"GET /v1/models/{name} HTTP/1.1".encode()
        data = post(b"", b"authorization: Bearer sk-a", line=line, length=b"")
        assert (await exchange(proxy.port, data, 1)).answers[0].code == "model_not_found"


async def test_a_key_of_one_kind_of_route_opens_no_other(
    proxy: Target, engine: StrictEngine
) -> None:
    for kind in RouteKind:
        engine.forget()
        proxy.publish(keys=[key("sk-a", routes=(kind,))])
        for route in DATA_ROUTES:
            answer = await ask(proxy, "sk-a", route.path)
            if route.kind is kind:
                assert answer.status == 200, route.path
            else:
                assert (answer.status, code(answer)) == (403, "route_not_allowed")
        opened = {route.path for route in DATA_ROUTES if route.kind is kind}
        assert {seen.path for seen in engine.received} == opened


async def test_a_key_expires_on_time_without_a_new_table(proxy: Target) -> None:
    """Also on a connection that it opened; it is refused as one that never was."""
    wire = await Wire.to(proxy.port)
    proxy.publish(keys=[key("sk-a")])
    assert await _status(wire, "sk-a") == 200
    proxy.publish(keys=[key("sk-a", expires_at=time.time() + 0.5)])
    await asyncio.sleep(0.4)
    assert await _status(wire, "sk-a") == 200
    await asyncio.sleep(0.2)
    assert await _status(wire, "sk-a") == 401
    assert (await ask(proxy, "sk-a")).body == (await ask(proxy, "sk-c")).body
    former = key("sk-old").sha256
    for until, status in ((time.time() + 60, 200), (time.time() - 1, 401), (0.0, 401)):
        renewed = key("sk-new", previous_sha256=former, previous_until=until)
        proxy.publish(keys=[renewed])
        assert (await ask(proxy, "sk-old")).status == status
        assert (await ask(proxy, "sk-new")).status == 200
    soon, past = time.time() + 60, time.time() - 1
    proxy.publish(
        keys=[key("sk-new", previous_sha256=former, previous_until=soon, expires_at=past)]
    )
    assert (await ask(proxy, "sk-old")).status == 401, "it ends with its key"


async def _status(wire: Wire, secret: str) -> int:
    return (await wire.ask(request(secret))).status


async def test_keys_change_without_a_restart_and_on_open_connections(proxy: Target) -> None:
    proxy.publish(keys=[key("sk-old")])
    wire = await Wire.to(proxy.port)
    assert (await _status(wire, "sk-old"), await _status(wire, "sk-new")) == (200, 401)
    both = key("sk-new", previous_sha256=key("sk-old").sha256, previous_until=time.time() + 60)
    proxy.publish(keys=[both])
    assert (await _status(wire, "sk-old"), await _status(wire, "sk-new")) == (200, 200)
    proxy.publish(keys=[key("sk-new")])
    assert (await _status(wire, "sk-old"), await _status(wire, "sk-new")) == (401, 200)
    proxy.publish(keys=[])
    assert (await _status(wire, "sk-old"), await _status(wire, "sk-new")) == (401, 401)


async def test_a_key_beyond_its_rate_is_429_and_no_other_key_notices(proxy: Target) -> None:
    limited = key("sk-a", "limited", rates=KeyRates(requests_per_minute=3))
    proxy.publish(keys=[limited, key("sk-b", "b")])
    answers = [await ask(proxy, "sk-a") for _ in range(6)]
    assert [answer.status for answer in answers].count(200) == 3
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await ask(proxy, "sk-b")).status == 200


async def test_a_table_with_a_broken_key_is_refused_whole(proxy: Target) -> None:
    """And the former one stays in force: a mistake never opens or shuts the endpoint."""
    proxy.publish(keys=[key("sk-a")])
    file = proxy.folder / "state" / "routing.json"
    held = file.read_text()
    broken = json.loads(held)
    broken["version"] += 1

    async def apply(table: RoutingTable) -> bool:
        return proxy.proxy.state.apply(table)

    put = routes(cast("Plane", SimpleNamespace(apply=apply)))["PUT", "/routing"]
    for sha256 in ("", "zz", "0" * 63, "é" * 64, 5):
        broken["keys"][0]["sha256"] = sha256
        answer = await put(json.dumps(broken).encode())
        assert answer.status == 400, (sha256, answer)
    assert (await ask(proxy, "sk-a")).status == 200
    assert (await ask(proxy, "sk-b")).status == 401
    assert file.read_text() == held


async def test_a_key_whose_hash_is_presented_is_no_key(proxy: Target) -> None:
    """Whoever reads the store or the table has no key yet."""
    proxy.publish(keys=[key("sk-a")])
    for stolen in (key("sk-a").sha256, key("sk-a").sha256.upper(), "k"):
        assert (await ask(proxy, stolen)).status == 401


def test_a_presented_key_is_hashed_before_anything_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is compared is a digest that the caller cannot steer, and in constant time.

    So neither the look-up nor the comparison tells how much of a guess was right.
    """
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    ring = KeyRing([key(f"sk-{i}", f"k{i}") for i in range(50)], required=True)
    for i in (0, 25, 49):
        compared.clear()
        found = ring.identify(f"sk-{i}".encode())
        assert isinstance(found, Caller)
        assert found.key_id == f"k{i}"
        assert compared
        digest = hashlib.sha256(f"sk-{i}".encode())
        assert {b for _, b in compared} <= {digest.digest(), digest.hexdigest().encode()}
    for guess in (b"sk-", b"sk-04", b"sk-490", b"SK-49", b"\xff"):
        assert not isinstance(ring.identify(guess), Caller)


@pytest.mark.parametrize("required", [True, False])
async def test_an_empty_key_is_nobody_s(proxy: Target, required: bool) -> None:
    """Not even where a table holds the hash of nothing."""
    proxy.publish(keys=[key("", "nothing")], keys_required=required)
    for value in (b"", b"Bearer", b"Bearer ", b"Basic x", b"x", b"Bearer  "):
        data = post(
            b'{"model":"m","prompt":"x"}', b"authorization: " + value, host=b"host: localhost"
        )
        assert await status_of(proxy.port, data) == (401 if required else 200), value


async def test_anthropic_s_header_is_a_key_and_of_both_the_one_that_is_ours(proxy: Target) -> None:
    proxy.publish(keys=[key("sk-a")])
    body = b'{"model":"m","max_tokens":3,"messages":[{"role":"user","content":"x"}]}'

    async def status(*headers: bytes) -> int:
        data = post(body, *headers, target=b"/v1/messages")
        return await status_of(proxy.port, data)

    assert await status(b"x-api-key: sk-a") == 200
    assert await status(b"x-api-key: sk-b") == 401
    assert await status(b"x-api-key: sk-a", b"x-api-key: sk-a") == 401
    for ours, other in ((b"sk-a", b"sk-b"), (b"sk-b", b"sk-a"), (b"sk-a", b"sk-a")):
        assert await status(b"x-api-key: " + ours, b"authorization: Bearer " + other) == 200
    assert await status(b"x-api-key: sk-b", b"authorization: Bearer sk-c") == 401


async def test_without_any_table_nothing_is_open() -> None:
    async with running() as target:
        wire = await Wire.to(target.port)
        for secret in ("", "sk-a"):
            assert await _status(wire, secret) == 503
        assert target.engine.received == []
