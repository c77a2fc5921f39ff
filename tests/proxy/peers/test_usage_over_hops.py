"""The head counts a request that went over a hop once, at the host that the client asked."""

import dataclasses
import hashlib

from partitiond.controller.keys.usage import UsageUseCases
from partitiond.core.demand.fleet import FleetSample
from partitiond.core.dispatch.routing import KeyRates, KeyRoute
from partitiond.core.views.usage import UsageLine
from partitiond.store import open_store
from tests.controller.fakes import FakeClock
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import MakeHosts
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.peers.test_key_limits import until_shared
from tests.proxy.scripted import answer
from tests.proxy.telemetry.test_traffic import sampled


def reported(hosts: list[Host]) -> tuple[UsageLine, ...]:
    """What `GET /usage` tells on a head that has read all these hosts' counts."""
    read = {one.name: dataclasses.replace(sampled(one.proxy), epoch=one.name) for one in hosts}
    desk = UsageUseCases(
        store=open_store(":memory:"), clock=FakeClock(), shares=dict,
        latest=lambda: FleetSample(0.0, "sum", hosts=read, own="a"), keep_days=0,
    )  # fmt: skip
    desk.look()
    return desk.report().lines


async def ask(one: Host, **body: object) -> int:
    asked = {"model": "m", "prompt": "hi", "max_tokens": 10, **body}
    headers = {"authorization": "Bearer k1"}
    async with one.proxy.client as client:
        return (await client.post("/v1/completions", json=asked, headers=headers)).status_code


async def test_a_request_over_a_hop_is_in_the_report_once(
    make_hosts: MakeHosts, make_engine: MakeEngine
) -> None:
    key = KeyRoute("k1", hashlib.sha256(b"k1").hexdigest(), rates=KeyRates(token_budget=4000))
    routes = table(replica(await make_engine()), keys=(key,), keys_required=True)
    hosts = await make_hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    a, b, c = hosts
    await until_shared(*hosts)
    for one in (b, b, c, a):
        assert await ask(one) == 200
    assert await ask(b, stream=True) == 200
    await until_idle(hosts)
    (line,) = reported(hosts)
    assert (line.key_id, line.model, line.requests, line.failed) == ("k1", "m", 5, 0)
    charged = [one.proxy.state.accounts.uses()["k1"] for one in hosts]
    assert [one["requests"] for one in charged] == [1, 3, 1]
    # What the report counts is what the budget was charged for.
    assert line.prompt_tokens + line.output_tokens == sum(one["budget_used"] for one in charged)
    assert line.engine_seconds > 0


async def test_a_request_that_failed_behind_a_hop_is_in_the_report_once(
    make_hosts: MakeHosts, make_engine: MakeEngine
) -> None:
    key = KeyRoute("k1", hashlib.sha256(b"k1").hexdigest())
    engine = await make_engine(lambda _: answer({"error": {"message": "broken"}}, status=500))
    routes = table(replica(engine), keys=(key,), keys_required=True)
    hosts = await make_hosts(routes, {"a": ["m-1"], "b": []})
    assert await ask(hosts[1]) >= 500
    await until_idle(hosts)
    (line,) = reported(hosts)
    assert (line.requests, line.failed) == (0, 1)
