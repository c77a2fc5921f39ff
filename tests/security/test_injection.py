"""Names from clients (ids, models, paths) stay data in answers, logs, metrics and at engines."""

import json
import re

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from tests.proxy.virtual import settled
from tests.security.attacks import BODY
from tests.security.target import KEY, StrictEngine, Target, key
from tests.security.wire import Answer, exchange, post

AUTH = f"authorization: Bearer {KEY}".encode()
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
ODD = 'm"\n\r\t\\{x="y"}\x1b[31m\u2028\u0000 é'


KEYS = [key(KEY, 'k"\n{x="1"}')]


async def ask(proxy: Target, data: bytes) -> Answer:
    return (await exchange(proxy.port, data, 1)).answers[0]


async def test_any_other_request_id_is_replaced(proxy: Target, engine: StrictEngine) -> None:
    """Than a harmless one, which is the request's everywhere."""
    for harmless in ("abc", "a-b_c.d:e", "x" * 64):
        engine.forget()
        answer = await ask(proxy, post(BODY, AUTH, b"x-request-id: " + harmless.encode()))
        assert answer.headers["x-request-id"] == harmless
        assert [seen.headers["x-request-id"] for seen in engine.received] == [harmless]
        await settled()
        assert f'"request_id":"{harmless}"' in proxy.log
    for given in (
        b"", b"x" * 65, b"a b", b"a\tb", b'a","status":500,"b":"', b"a\\n", b"a;b", b"a,b", b"<a>",
        b"a%0d%0ab", "é".encode(), b"\xff", b"${jndi:ldap://x}", b"' OR 1=1 --",
    ):  # fmt: skip
        engine.forget()
        answer = await ask(proxy, post(BODY, AUTH, b"x-request-id: " + given))
        assert re.fullmatch(r"req-[0-9a-f]{24}", answer.headers["x-request-id"]), given
        ids = [seen.headers["x-request-id"] for seen in engine.received]
        assert ids == [answer.headers["x-request-id"]]
    assert engine.violations == []


@pytest.mark.parametrize(
    "data",
    [
        post(json.dumps({"model": ODD, "prompt": "x"}).encode(), AUTH),
        post(json.dumps({"model": "m", "prompt": "x", "stream": ODD}).encode(), AUTH),
        post(BODY, AUTH, target=b"/v1/%0a%0d%1b[31m%22%00"),
        post(BODY, AUTH, line=b'GET /v1/models/%0a%0d"x HTTP/1.1'),
        post(BODY, AUTH, target=b"/" + b"%22" * 200),
    ],
)
async def test_what_is_told_back_is_escaped(
    proxy: Target, engine: StrictEngine, data: bytes
) -> None:
    answer = await ask(proxy, data)
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/json"
    assert not CONTROL.search(answer.body.decode())
    assert len(answer.body) < 1000
    assert engine.received == []


async def test_every_log_line_is_one_json_object(proxy: Target) -> None:
    routes = [ModelRoute(name, ModelAvailability.SERVING, served_name="m") for name in ("m", ODD)]
    proxy.publish(keys=KEYS, models=routes)
    data = post(json.dumps({"model": ODD, "prompt": "x"}).encode(), AUTH)
    assert (await ask(proxy, data)).status == 200
    await ask(proxy, post(BODY, AUTH, target=b"/v1/%0a{%22event%22:%22forged%22}"))
    await ask(proxy, post(BODY, AUTH, target=b"/v1/last"))
    assert "/v1/last" in proxy.log
    for line in proxy.log.rstrip("\n").split("\n"):
        assert json.loads(line)["event"] != "forged"
        assert not CONTROL.search(line), line
