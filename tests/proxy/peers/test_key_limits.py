"""A key's limits hold over hosts, each of which admits by itself; the entry charges."""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    KeyRates,
    KeyRoute,
    PeerRoute,
    RoutingTable,
)
from partitiond.core.keys.portions import KeyWord, Portions
from partitiond.core.keys.rates import Usage
from partitiond.proxy.keys.over_hosts import KeysOverHosts
from partitiond.proxy.keys.words import KeyWords, messages, read_words
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import PROTOCOL, Hello, encode
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts
from tests.proxy.peers.test_hops import until_idle

TOKENS = {"max_tokens": 10, "prompt": "hi"}


def key(rates: KeyRates) -> KeyRoute:
    return KeyRoute("k1", hashlib.sha256(b"k1").hexdigest(), rates=rates)


async def ask(one: Host) -> int:
    headers = {"authorization": "Bearer k1"}
    async with one.proxy.client as client:
        reply = await client.post("/v1/completions", json={"model": "m", **TOKENS}, headers=headers)
    return reply.status_code


def has_portion(one: Host) -> bool:
    """Whether the others have confirmed that the host may use something."""
    shared = one.proxy.state.accounts.over_hosts.of("k1")
    allowed = None if shared is None else shared.allowance
    return allowed is not None and any(
        part.ceiling > part.floor for part in (allowed.requests, allowed.budget)
    )


def shared_of(one: Host) -> Portions:
    """What the host knows of the key over all hosts."""
    shared = one.proxy.state.accounts.over_hosts.of("k1")
    assert isinstance(shared, Portions)
    return shared


async def until_shared(*hosts: Host) -> None:
    """Wait until each host has a portion that the others know."""
    for one in hosts:
        await one.proxy.until(functools.partial(has_portion, one))


async def drive(hosts: list[Host], asks: int = 40) -> list[int]:
    """Ask all hosts so often each, and return how many requests each one admitted."""

    async def one_host(one: Host) -> int:
        return sum([await ask(one) == 200 for _ in range(asks)])

    return await asyncio.gather(*[one_host(one) for one in hosts])


async def until_admitted(one: Host, count: int) -> None:
    async with asyncio.timeout(60):
        while count:
            count -= await ask(one) == 200


async def test_requests_a_minute_hold_over_hosts(make: Make) -> None:
    limit = 30
    rates = KeyRates(requests_per_minute=limit)
    routes = table(replica(await make.engine()), keys=(key(rates),), keys_required=True)
    began = time.monotonic()
    hosts = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    await until_shared(*hosts)
    admitted = await drive(hosts)
    refilled = (time.monotonic() - began) * limit / 60
    assert limit / 2 <= sum(admitted) <= limit + len(hosts) - 1 + refilled
    assert all(admitted)
    await until_idle(hosts)


async def budget_of(one: Host) -> float:
    uses = one.proxy.state.accounts.uses()["k1"]
    return uses["budget_used"]


@contextlib.asynccontextmanager
async def two_hosts(
    folder: Path, make_engine: MakeEngine, rates: KeyRates
) -> AsyncIterator[tuple[Host, Host, contextlib.AsyncExitStack, RoutingTable]]:
    routes = table(replica(await make_engine()), keys=(key(rates),), keys_required=True)
    async with contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(host(folder, "a"))
        own = await stack.enter_async_context(contextlib.AsyncExitStack())
        b = await own.enter_async_context(host(folder, "b"))
        parts(routes, [a, b], {"m-1": "a"})
        await until_shared(a, b)
        yield a, b, own, routes


async def test_a_budget_is_used_once_over_hosts_and_a_restart(
    folder: Path, make_engine: MakeEngine
) -> None:
    rates = KeyRates(token_budget=200, budget_period=BudgetPeriod.NEVER)
    async with two_hosts(folder, make_engine, rates) as (a, b, own, routes):
        await drive([a, b])
        await until_idle([a, b])
        used = [await budget_of(a), await budget_of(b)]
        assert all(used)  # the entry charges: that of `b` ran on `a`
        counts = [one.proxy.state.accounts.uses()["k1"] for one in (a, b)]
        traffic = [one.proxy.state.traffic()["usage"].get("k1", {}) for one in (a, b)]
        for count, told in zip(counts, traffic, strict=True):
            assert told["m"]["requests"] == count["requests"]
        assert sum(used) <= 200 + 30  # and one request
        shared = shared_of(b)
        await b.proxy.until(lambda: shared.heard.budget_tokens == used[0])
        await own.aclose()  # the host's proxy ends
        async with host(folder, "b") as again:
            parts(routes, [a, again], {"m-1": "a"})
            assert await budget_of(again) == used[1]
            kept = shared_of(again).known()
            assert ("a", round(used[0])) in [(one[0], round(one[3])) for one in kept]
            await again.until_it_hears(1)
            await drive([a, again], 10)
            await until_idle([a, again])
            assert await budget_of(a) + await budget_of(again) <= 200 + 30


async def test_a_host_that_starts_anew_knows_what_was_used(
    folder: Path, make_engine: MakeEngine
) -> None:
    """From its file if it is alone, and from the others if it has no file."""
    rates = KeyRates(token_budget=4000, budget_period=BudgetPeriod.NEVER)
    async with two_hosts(folder, make_engine, rates) as (a, b, own, routes):
        assert [await ask(one) for one in (a, a, a, b)] == [200] * 4
        await until_idle([a, b])
        used, own_use = await budget_of(a), await budget_of(b)
        await b.proxy.until(lambda: shared_of(b).heard.budget_tokens == used)
        await a.proxy.until(lambda: shared_of(a).heard.budget_tokens == own_use)
        await own.aclose()
        for _ in range(2):  # the second start has what the first one kept
            async with host(folder, "b") as again:
                parts(routes, [again], {})
                assert shared_of(again).heard.budget_tokens == used
                again.proxy.state.accounts.save()
        for path in (folder / "b" / "state").glob("budgets*"):
            path.unlink()
        async with host(folder, "b") as again:
            parts(routes, [a, again], {"m-1": "a"})
            uses = again.proxy.state.accounts.uses
            await again.proxy.until(lambda: uses()["k1"]["budget_used"] == own_use)


async def test_a_host_that_is_renamed_tells_its_use_by_its_new_name(make: Make) -> None:
    rates = KeyRates(token_budget=4000, budget_period=BudgetPeriod.NEVER)
    routes = table(replica(await make.engine()), keys=(key(rates),), keys_required=True)
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": []})
    await until_shared(a, b)
    b.name, b.route = "c", dataclasses.replace(b.route, host="c")
    parts(dataclasses.replace(routes, version=2), [a, b], {"m-1": "a"})
    assert await ask(b) == 200
    await until_idle([a, b])
    used = await budget_of(b)

    def told() -> bool:
        return [one for one in shared_of(a).known() if one[0] == "c" and one[3] == used] != []

    await a.proxy.until(told)


async def test_a_key_is_removed_and_made_again_while_words_are_under_way(make: Make) -> None:
    rates = KeyRates(requests_per_minute=30)
    routes = table(replica(await make.engine()), keys=(key(rates),), keys_required=True)
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": []})
    await until_shared(a, b)
    assert await ask(b) == 200
    with_key = b.proxy.state.table
    b.proxy.state.apply(dataclasses.replace(with_key, version=2, keys=()))
    assert await ask(b) == 401
    assert await ask(a) == 200
    shared = shared_of(a)
    await a.proxy.until(lambda: not shared._heard["b"].portion.requests)
    await until_admitted(a, 12)  # of which `b` would have kept some
    b.proxy.state.apply(dataclasses.replace(with_key, version=3))
    await until_admitted(b, 1)


class Liar:
    """Talks to a host in the name of another one of its table."""

    def __init__(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self.writer, self.reader = writer, reader

    def say(self, kind: int, payload: bytes) -> None:
        self.writer.write(frames.frame(kind, 0, payload))


@contextlib.asynccontextmanager
async def lying(one: Host, name: str) -> AsyncIterator[Liar]:
    reader, writer = await asyncio.open_unix_connection(one.route.address.removeprefix("unix:"))
    liar = Liar(writer, reader)
    liar.say(frames.HELLO, encode(Hello(PROTOCOL, name)))
    yield liar
    writer.close()


async def test_a_lying_host_unlocks_no_more_than_the_limit(make: Make) -> None:
    limit = 12
    routes = table(
        replica(await make.engine()), keys=(key(KeyRates(requests_per_minute=limit)),),
        keys_required=True,
    )  # fmt: skip
    (a,) = await make.hosts(routes, {"a": ["m-1"]})
    with_liar = (*a.proxy.state.table.peers, PeerRoute("b", "unix:/nowhere/b.peer"))
    a.proxy.state.apply(dataclasses.replace(a.proxy.state.table, version=2, peers=with_liar))
    known = a.proxy.state.accounts.over_hosts
    assert isinstance(known, KeysOverHosts)
    shared, peers = shared_of(a), known._peers
    assert peers is not None
    began = time.monotonic()
    async with lying(a, "b") as liar:
        for number in range(1, 30):
            word = KeyWord(
                5, number, Usage(tokens=-1e9), Usage(), heard_incarnation=shared.incarnation,
                heard_number=10**12,
            )  # fmt: skip
            empty = KeyWords(peers.incarnation, 0.0, peers.incarnation, 1e300)
            for message in messages(empty, {"k1": word, "nobody's": word}):
                liar.say(frames.KEYS, message)
        await a.proxy.until(lambda: shared._heard["b"].number == 29)
        assert peers.answered.get("b", 0.0) <= time.monotonic()
        admitted = sum(await drive([a], limit + 3))
        assert admitted <= limit + 1 + (time.monotonic() - began) * limit / 60
        liar.say(frames.KEYS, encode((1, 2.0, 3, 4.0, [["k1"] * 3])))
        async with asyncio.timeout(120):
            await liar.reader.read(-1)


def test_many_words_go_in_several_messages_and_come_back_whole() -> None:
    word = KeyWord(
        7, 8, Usage(1, 2, 3, 4, 5), Usage(0, 1, 2, 4, 6), (1.5, 2.5), True, 3, 4, True,
        (("h", 1, 2.0, 3.0),) * 100, ("x", "y"),
    )  # fmt: skip
    words = {f"key-{n}": word for n in range(200)}
    told = list(messages(KeyWords(1, 2.0, 3, 4.0), words))
    assert len(told) > 1
    assert max(map(len, told)) < frames.MAX_PAYLOAD_BYTES
    read = [read_words(one) for one in told]
    assert dict(pair for one in read for pair in one.by_key()) == words
    assert {(one.incarnation, one.heard_sent) for one in read} == {(1, 4.0)}


async def test_one_host_alone_keeps_nothing_of_others(make: Make) -> None:
    rates = KeyRates(requests_per_minute=3)
    routes = table(replica(await make.engine()), keys=(key(rates),), keys_required=True)
    (a,) = await make.hosts(routes, {"a": ["m-1"]})
    known = a.proxy.state.accounts.over_hosts
    assert isinstance(known, KeysOverHosts)
    assert (known.of("k1"), known._timer) == (None, None)
    assert [await ask(a) for _ in range(4)] == [200, 200, 200, 429]
