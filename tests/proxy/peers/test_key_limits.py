"""A key's limits hold over hosts, each of which admits by itself; the entry charges.

What a host may use `tests/core/keys/test_portions.py` says; here, that hosts tell each other.
"""

import asyncio
import contextlib
import dataclasses
import functools
import time
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, PeerRoute
from partitiond.core.keys.portions import MOST, KeyWord, Portions
from partitiond.core.keys.rates import Usage
from partitiond.proxy.keys.over_hosts import KeysOverHosts
from partitiond.proxy.keys.words import KeyWords, messages
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import PROTOCOL, Hello, encode
from tests.proxy.conftest import MakeEngine, key, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time


async def ask(one: Host) -> int:
    return (await one.proxy.complete(key="k1", max_tokens=10)).status_code


def shared_of(one: Host) -> Portions:
    """What the host knows of the key over all hosts."""
    shared = one.proxy.state.accounts.over_hosts.of("k1")
    assert isinstance(shared, Portions)
    return shared


def has_portion(one: Host) -> bool:
    """Whether the others have confirmed that the host may use something."""
    allowed = shared_of(one).allowance
    return allowed is not None and any(
        part.ceiling > part.floor for part in (allowed.requests, allowed.budget)
    )


async def until_shared(*hosts: Host) -> None:
    """Wait until each host has a portion that the others know."""
    for one in hosts:
        await one.proxy.until(functools.partial(has_portion, one))


async def drive(*hosts: Host, asks: int = 40) -> list[int]:
    """Ask all hosts so often each, and return how many requests each one admitted."""

    async def one_host(one: Host) -> int:
        return sum([await ask(one) == 200 for _ in range(asks)])

    return await asyncio.gather(*[one_host(one) for one in hosts])


def budget_of(one: Host) -> float:
    return one.proxy.state.accounts.uses()["k1"]["budget_used"]


async def test_a_budget_is_used_once_over_hosts_and_restarts(
    folder: Path, make_engine: MakeEngine
) -> None:
    rates = KeyRates(token_budget=200, budget_period=BudgetPeriod.NEVER)
    routes = table(replica(await make_engine()), keys=(key(rates=rates),), keys_required=True)
    async with host(folder, "a") as a:
        async with host(folder, "b") as b:
            parts(routes, [a, b], {"m-1": "a"})
            await until_shared(a, b)
            await drive(a, b)
            await until_idle([a, b])
            used = budget_of(a), budget_of(b)
            assert all(used)  # the entry charges: that of `b` ran on `a`
            for one in (a, b):
                told = one.proxy.state.traffic()["usage"]["k1"]["m"]["requests"]
                assert told == one.proxy.state.accounts.uses()["k1"]["requests"]
            assert sum(used) <= 200 + 30  # and one request
            await b.proxy.until(lambda: shared_of(b).heard.budget_tokens == used[0])
            await a.proxy.until(lambda: shared_of(a).heard.budget_tokens == used[1])
        async with host(folder, "b") as alone:
            parts(routes, [alone], {})
            assert (budget_of(alone), shared_of(alone).heard.budget_tokens) == used[::-1]
        for path in (folder / "b" / "state").glob("budgets*"):
            path.unlink()
        async with host(folder, "b") as again:  # it hears of its use from the others
            parts(routes, [a, again], {"m-1": "a"})
            await again.proxy.until(lambda: budget_of(again) == used[1])
            await again.until_it_hears(1)
            await drive(a, again, asks=10)
            await until_idle([a, again])
            assert budget_of(a) + budget_of(again) <= 200 + 30


async def test_a_clock_that_was_set_back_makes_no_host_unheard(
    folder: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a peer that tells of a later incarnation than any clock's does not use up the numbers."""
    rates = KeyRates(token_budget=4000, budget_period=BudgetPeriod.NEVER)
    routes = table(replica(await make_engine()), keys=(key(rates=rates),), keys_required=True)
    async with host(folder, "a") as a:
        async with host(folder, "b") as b:
            parts(routes, [a, b], {"m-1": "a"})
            await until_shared(a, b)
            assert await ask(b) == 200
            await a.proxy.until(lambda: shared_of(a).heard.budget_tokens == budget_of(b))
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        async with host(folder, "b") as again:
            parts(routes, [a, again], {"m-1": "a"})
            await until_shared(again)
            assert await ask(again) == 200
            await a.proxy.until(lambda: shared_of(a).heard.budget_tokens == budget_of(again))
            keys, last = again.proxy.state.accounts.over_hosts, 1024 * int(MOST) - 1
            assert isinstance(keys, KeysOverHosts)
            keys.hear("a", KeyWords(5, 1.0, last, 1.0))
            assert keys._peers is not None
            assert keys._peers.incarnation < last


async def test_a_key_is_removed_and_made_again_while_words_are_under_way(make: Make) -> None:
    keys = (key(rates=KeyRates(requests_per_minute=30)),)
    routes = table(replica(await make.engine()), keys=keys, keys_required=True)
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": []})
    await until_shared(a, b)
    assert await ask(b) == 200
    with_key = b.proxy.state.table
    b.proxy.state.apply(dataclasses.replace(with_key, version=2, keys=()))
    assert await ask(b) == 401
    assert await ask(a) == 200
    await a.proxy.until(lambda: not shared_of(a)._heard["b"].portion.requests)
    b.proxy.state.apply(dataclasses.replace(with_key, version=3))
    await until_shared(b)
    assert await ask(b) == 200


async def test_a_lying_host_unlocks_no_more_than_the_limit(make: Make) -> None:
    keys = (key(rates=KeyRates(requests_per_minute=12)),)
    routes = table(replica(await make.engine()), keys=keys, keys_required=True)
    (a,) = await make.hosts(routes, {"a": ["m-1"]})
    over_hosts = a.proxy.state.accounts.over_hosts
    assert isinstance(over_hosts, KeysOverHosts)
    assert (over_hosts.of("k1"), over_hosts._timer) == (None, None), "one host alone keeps nothing"
    told = a.proxy.state.table
    peers = (*told.peers, PeerRoute("b", "unix:/nowhere/b.peer"))
    a.proxy.state.apply(dataclasses.replace(told, version=2, peers=peers))
    shared, known = shared_of(a), over_hosts._peers
    assert known is not None
    reader, writer = await asyncio.open_unix_connection(a.route.address.removeprefix("unix:"))
    with contextlib.closing(writer):
        writer.write(frames.frame(frames.HELLO, 0, encode(Hello(PROTOCOL, "b"))))
        for number in range(1, 30):
            word = KeyWord(
                5, number, Usage(tokens=-1e9), Usage(), heard_incarnation=shared.incarnation,
                heard_number=10**12,
            )  # fmt: skip
            empty = KeyWords(known.incarnation, 0.0, known.incarnation, 1e300)
            for message in messages(empty, {"k1": word, "nobody's": word}):
                writer.write(frames.frame(frames.KEYS, 0, message))
        await a.proxy.until(lambda: shared._heard["b"].number == 29)
        assert known.answered.get("b", 0.0) <= time.monotonic()
        began = time.monotonic()
        (admitted,) = await drive(a, asks=15)
        assert admitted <= 12 + 1 + (time.monotonic() - began) * 12 / 60
        no_words = encode((1, 2.0, 3, 4.0, [["k1"] * 3]))
        writer.write(frames.frame(frames.KEYS, 0, no_words))
        await reader.read(-1)  # until it ends the connection
