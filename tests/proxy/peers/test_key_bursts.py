"""A client that sends all that its key allows to one host gets it, after a moment."""

import asyncio
import time

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRates
from partitiond.proxy.edge import exchange
from tests.proxy.conftest import key, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.peers.test_key_limits import shared_of, until_shared
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time
LIMIT = 8


def burst(one: Host, wait: str = "600") -> list[asyncio.Task[httpx.Response]]:
    headers = {"x-partitiond-max-wait-seconds": wait}
    return [one.proxy.ask(key="k1", max_tokens=10, headers=headers) for _ in range(LIMIT)]


def waits(host: Host) -> int:
    return host.proxy.state.portion_waits["k1"]


def running(host: Host) -> float:
    return host.proxy.state.accounts.uses()["k1"]["in_flight"]


@pytest.fixture
def go() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def hosts(make: Make, go: asyncio.Event) -> list[Host]:
    """Three hosts that no request came to yet; engines answer once it goes."""
    keys = (key(rates=KeyRates(max_in_flight=LIMIT, requests_per_minute=100_000)),)
    engine = await make.engine(holding(go))
    routes = table(replica(engine, max_sequences=100), keys=keys, keys_required=True)
    made = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    await until_shared(*made)
    return made


async def test_one_host_may_use_all_at_once(hosts: list[Host], go: asyncio.Event) -> None:
    for one in hosts[:2]:  # the next host has to take over what the first one had
        asked = burst(one)
        await one.proxy.until(lambda one=one: running(one) == LIMIT)  # type: ignore[misc]
        assert waits(one) == 0
        refused = await one.proxy.complete(key="k1", max_tokens=10)
        assert refused.status_code == 429, "what is used up refuses at once"
        go.set()
        assert [(await reply).status_code for reply in asked] == [200] * LIMIT
        await until_idle(hosts)
        for other in hosts:
            await other.proxy.until(lambda other=other: shared_of(other).heard.in_flight == 0)  # type: ignore[misc]
        go.clear()


@pytest.mark.parametrize(
    ("end", "codes"),
    [
        ("it does not wait", {200, 429}),
        ("it is full", {200, 429}),
        ("the proxy shuts down", {200, 503}),
        ("its client leaves", set()),
    ],
)
async def test_one_that_waits_for_its_portion_may_end(
    end: str, codes: set[int], hosts: list[Host], go: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    if end == "it is full":
        monkeypatch.setattr(exchange, "MOST_PORTION_WAITS", 2)
    host = hosts[1]
    state = host.proxy.state
    asked = burst(host, "0" if end == "it does not wait" else "600")
    await host.proxy.until(lambda: waits(host) > 0 or any(one.done() for one in asked))
    if end == "its client leaves":
        for one in asked:
            one.cancel()
    elif end == "the proxy shuts down":
        for reading in list(state.reading):
            reading.stop_reading(time.monotonic())
        await host.proxy.until(lambda: waits(host) == 0)
    go.set()
    replies = await asyncio.gather(*asked, return_exceptions=True)
    assert {one.status_code for one in replies if isinstance(one, httpx.Response)} == codes
    await until_idle(hosts)
    await host.proxy.until(lambda: waits(host) == 0)
    assert running(host) == 0
    assert not state.reading
