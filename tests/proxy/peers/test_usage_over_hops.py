"""The head counts a request that went over a hop once, at the host that the client asked."""

import asyncio
import dataclasses

import httpx
import pytest

from partitiond.controller.keys.usage import UsageUseCases
from partitiond.core.demand.fleet import FleetSample
from partitiond.core.dispatch.admission import EVERYBODY
from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    HostShares,
    KeyRates,
    KeyShare,
    RoutingTable,
)
from partitiond.core.keys.rates_and_budgets import SHARE_SECONDS
from partitiond.core.views.usage import UsageLine
from partitiond.store import open_store
from tests.controller.fakes import FakeClock
from tests.proxy.conftest import error_of, key, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import LyingEntry, opened
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import plays
from tests.proxy.telemetry.test_traffic import sampled
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time


async def reported(hosts: list[Host]) -> tuple[UsageLine, ...]:
    """What `GET /usage` tells on a head that has read all these hosts' counts twice."""
    read = {one.name: dataclasses.replace(sampled(one.proxy), epoch=one.name) for one in hosts}
    desk = UsageUseCases(
        store=open_store(":memory:"),
        clock=FakeClock(),
        latest=lambda: FleetSample(0.0, "sum", hosts=read),
        keep_days=0,
    )
    for _ in range(2):
        desk.collect()
    return (await desk.report()).lines


async def test_a_request_over_a_hop_is_in_the_report_once(make: Make) -> None:
    """Also one that failed there."""
    keys = (key(rates=KeyRates(token_budget=4000)),)
    engine = await make.engine()
    routes = table(replica(engine), keys=keys, keys_required=True)
    hosts = a, b, c = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    for one, stream in ((b, False), (b, False), (c, False), (a, False), (b, True)):
        assert (await one.proxy.complete(key="k1", max_tokens=10, stream=stream)).is_success
    assert (await b.proxy.complete("/tokenize", key="k1")).is_success
    assert sampled(a.proxy).replicas["m-1"].ok == 5
    engine.script = plays("close")
    assert (await b.proxy.complete(key="k1", max_tokens=10)).status_code >= 500
    await until_idle(hosts)
    (line,) = await reported(hosts)
    assert (line.key_id, line.model, line.requests, line.failed) == ("k1", "m", 5, 1)
    charged = [one.proxy.state.accounts.uses()["k1"] for one in hosts]
    assert [one["requests"] for one in charged] == [1, 5, 1]
    # What the report counts is what the budget was charged for.
    assert line.prompt_tokens + line.output_tokens == sum(one["budget_used"] for one in charged)


async def test_a_key_that_is_none_is_nobody_s(make: Make) -> None:
    """A host that invents keys has one turn in the queue."""
    _, b, engine = await make.pair(plays("hold"))
    caller = await LyingEntry.call(b)
    caller.writer.write(opened(key="none-1"))
    await engine.got(1)
    assert [live.share for one in b.proxy.state.replicas() for live in one.requests] == [EVERYBODY]
    caller.writer.close()


async def test_what_is_left_costs_what_its_owner_did(make: Make) -> None:
    """Of 64 sequences a replica runs 8 at a time, and each as fast as only its host knows."""
    keys = (key(rates=KeyRates(token_budget=10**6)),)
    own = replica(await make.engine(plays("hold")), tokens_per_s=20.0)
    hosts = a, _ = await make.hosts(table(own, keys=keys), {"a": ["m-1"], "b": []})
    for one in hosts:
        asking = one.proxy.ask(key="k1", n=64, max_tokens=500)
        await one.proxy.until(lambda: a.proxy.state.models["m"].replicas["m-1"].sequences == 8)
        await asyncio.sleep(10)
        asking.cancel()
        await until_idle(hosts)
    paid = [one.proxy.state.accounts.uses()["k1"]["tokens"] for one in hosts]
    assert paid == pytest.approx([8 * 10 * 20.0] * 2, rel=0.02)


# A host keeps within its shares of a key's limits, and tells the head what it used of them.
# How the head divides them `tests/core/keys/test_shares.py` says; here, that the proxy obeys.


BUDGET = KeyRates(token_budget=900, budget_period=BudgetPeriod.NEVER)


async def ask(one: Host) -> httpx.Response:
    return await one.proxy.complete(key="k1", max_tokens=10)


async def admitted(one: Host, asks: int) -> int:
    return sum([(await ask(one)).status_code == 200 for _ in range(asks)])


def with_share(
    table: RoutingTable, number: int, budget: float, *, spent: bool = False
) -> RoutingTable:
    row = KeyShare("k1", 0.5, 0.5, 1, 0.0, budget, spent)
    return dataclasses.replace(table, shares=HostShares(number, 0.25, (row,)))


async def test_a_host_uses_its_share_and_counts_it_for_the_head(make: Make) -> None:
    """The entry is charged for what runs elsewhere."""
    routes = table(replica(await make.engine()), keys=(key(rates=BUDGET),), keys_required=True)
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": []})
    state = b.proxy.state
    told = state.table
    assert sampled(b.proxy).keys == {}, "its head divides nothing"
    assert state.apply(with_share(told, 7, 60.0))
    assert sampled(b.proxy).shares_number == 7
    few = await admitted(b, 12)
    assert 0 < few < 12
    refused = await ask(b)
    assert error_of(refused) == (429, "budget_exhausted")
    assert refused.headers["retry-after"] == str(SHARE_SECONDS)
    await until_idle([a, b])
    count = sampled(b.proxy).keys["k1"]
    assert (count.requests, count.refused, count.in_flight) == (few, 13 - few, 0)
    assert 0 < count.budget_tokens == count.tokens <= 60
    assert not state.apply(with_share(told, 6, 900.0)), "it came late"
    assert (await ask(b)).status_code == 429
    assert state.apply(with_share(told, 8, 300.0))
    assert await admitted(b, 5) == 5
    assert state.apply(with_share(told, 9, 0.0, spent=True))
    assert "retry-after" not in (await ask(b)).headers, "nothing is left anywhere"
