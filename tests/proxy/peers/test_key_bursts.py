"""A client that sends all that its key allows to one host gets it, after a moment."""

import asyncio
import time

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRates
from partitiond.proxy.edge import exchange
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.peers.test_key_limits import TOKENS, key, shared_of, until_shared
from tests.proxy.scripted import Received, Step, answer, completion

LIMIT = 8


async def ask(one: Host, wait: str = "") -> httpx.Response:
    headers = {"authorization": "Bearer k1"}
    if wait:
        headers["x-partitiond-max-wait-seconds"] = wait
    async with one.proxy.client as client:
        return await client.post("/v1/completions", json={"model": "m", **TOKENS}, headers=headers)


def waits(host: Host) -> int:
    return host.proxy.state.portion_waits["k1"]


def running(host: Host) -> float:
    return host.proxy.state.accounts.uses()["k1"]["in_flight"]


async def until_running(host: Host, count: int) -> None:
    await host.proxy.until(lambda: running(host) == count)


async def until_heard(host: Host) -> None:
    """Wait until it has heard that nothing is in flight at the others."""
    await host.proxy.until(lambda: shared_of(host).heard.in_flight == 0)


@pytest.fixture
def go() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def hosts(make: Make, go: asyncio.Event) -> list[Host]:
    """Three hosts that no request came to yet; engines answer once it goes."""

    def holds(_: Received) -> list[Step]:
        return [go, *answer(completion())]

    rates = KeyRates(max_in_flight=LIMIT, requests_per_minute=100_000)
    routes = table(
        replica(await make.engine(holds), max_sequences=100),
        keys=(key(rates),),
        keys_required=True,
    )
    made = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    await until_shared(*made)
    return made


async def test_one_host_may_use_all_at_once(
    hosts: list[Host], go: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PORTION_SECONDS", 60.0)  # however slow this machine is
    for one in hosts[:2]:  # the next host has to take over what the first one had
        burst = [asyncio.create_task(ask(one)) for _ in range(LIMIT)]
        await until_running(one, LIMIT)
        assert waits(one) == 0
        assert (await ask(one)).status_code == 429, "what is used up refuses at once"
        go.set()
        assert [(await reply).status_code for reply in burst] == [200] * LIMIT
        await until_idle(hosts)
        for other in hosts:
            await until_heard(other)
        go.clear()


async def test_who_does_not_wait_is_refused_at_once(hosts: list[Host], go: asyncio.Event) -> None:
    burst = [asyncio.create_task(ask(hosts[1], wait="0")) for _ in range(LIMIT)]
    await hosts[1].proxy.until(lambda: sum(one.done() for one in burst) > 0)
    assert waits(hosts[1]) == 0
    go.set()
    codes = [(await one).status_code for one in burst]
    assert set(codes) == {200, 429}
    await until_idle(hosts)


@pytest.mark.parametrize("ends", ["its client leaves", "the proxy shuts down", "it is full"])
async def test_one_that_waits_may_end(
    ends: str, hosts: list[Host], go: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PORTION_SECONDS", 60.0)
    if ends == "it is full":
        monkeypatch.setattr(exchange, "MOST_PORTION_WAITS", 2)
    host = hosts[1]
    state = host.proxy.state
    burst = [asyncio.create_task(ask(host)) for _ in range(LIMIT)]
    await host.proxy.until(lambda: waits(host) > 0)
    if ends == "its client leaves":
        for one in burst:
            one.cancel()
    elif ends == "the proxy shuts down":
        for reading in list(state.reading):
            reading.stop_reading(time.monotonic())
        await host.proxy.until(lambda: waits(host) == 0)
        go.set()
        codes = [(await one).status_code for one in burst]
        assert 503 in codes
        assert set(codes) <= {200, 503}
    else:
        go.set()
        codes = [(await one).status_code for one in burst]
        assert 429 in codes
    await until_idle(hosts)
    await host.proxy.until(lambda: waits(host) == 0)
    assert running(host) == 0
    assert not state.reading
