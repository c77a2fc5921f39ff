"""A host keeps within its shares of a key's limits, and tells the head what it used of them.

How the head divides them `tests/core/keys/test_shares.py` says; here, that the proxy obeys.
"""

import dataclasses

import httpx

from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    HostShares,
    KeyRates,
    KeyShare,
    RoutingTable,
)
from partitiond.core.keys.rates import SHARE_SECONDS
from tests.proxy.conftest import error_of, key, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.telemetry.test_traffic import sampled
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time
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


async def test_hosts_whose_head_divides_nothing_have_equal_parts(make: Make) -> None:
    """As one whose store could not keep the first division."""
    keys = (key(rates=KeyRates(requests_per_minute=8)),)
    routes = table(replica(await make.engine()), keys=keys, keys_required=True)
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": []})
    assert [await admitted(one, 6) for one in (a, b)] == [4, 4]
