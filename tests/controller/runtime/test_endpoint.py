"""The endpoint is told the newest table until it is known to have it, and no other."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.core.dispatch.routing import KeyRoute, ModelAvailability, ModelRoute, RoutingTable
from partitiond.core.errors import NotKeptError, PartitiondError
from partitiond.store import Store, open_store
from tests.controller.fakes import FakeClock, FakeProxy
from tests.machine import until


class FullDisk(FakeProxy):
    """Has each table in force, and while its disk is full says that it could not store it."""

    full = False

    async def publish(self, table: RoutingTable) -> None:
        await super().publish(table)
        if self.full:
            raise NotKeptError("The routing table could not be written.")


def table(*models: str, keys: tuple[str, ...] = ()) -> RoutingTable:
    routes = tuple(ModelRoute(name, ModelAvailability.SERVING, name) for name in models)
    known = tuple(KeyRoute(name, "0" * 64) for name in keys)
    return RoutingTable(version=0, models=routes, replicas=(), keys=known)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "store.sqlite3")
    yield store
    store.close()


async def running(proxy: FakeProxy, store: Store) -> Endpoint:
    clock = FakeClock()
    await proxy.ensure_running()
    return Endpoint(
        proxy, store=store, clock=clock, journal=Journal(store, clock), wake=lambda: None
    )


async def test_a_key_may_be_taken_as_long_as_any_table_without_an_answer_has_it(
    store: Store,
) -> None:
    """Also before and after the call is given up: the table lies in the endpoint's socket."""
    proxy = FakeProxy()
    endpoint = await running(proxy, store)
    assert endpoint.may_take("k"), "what an adopted endpoint has is not known"
    await endpoint.publish(table())
    assert not endpoint.may_take("k")
    take, fails = proxy.publish, asyncio.Event()

    async def hangs(table: RoutingTable) -> None:
        await fails.wait()
        raise PartitiondError("it does not answer.")

    proxy.publish = hangs  # type: ignore[method-assign]
    telling = asyncio.create_task(endpoint.publish(table("a", keys=("k",))))
    await until(lambda: endpoint.may_take("k"))
    assert endpoint.routed() is None
    assert not endpoint.may_take("other")
    fails.set()
    await telling
    await endpoint.publish(table("b"))
    assert endpoint.may_take("k")
    assert not await endpoint.await_table(lambda t: not t.keys, 0.01)
    proxy.publish = take  # type: ignore[method-assign]
    await endpoint.publish(table("b"))
    assert not endpoint.may_take("k")
    assert endpoint.routed() == frozenset()
    proxy.die()
    await endpoint.keep_running()
    assert endpoint.may_take("k"), "its next process begins with a table on disk"
    await endpoint.publish(table("b"))
    assert not endpoint.may_take("k")
    proxy.newest = 10**6  # of an earlier life of the store
    await endpoint.publish(table("c"))
    assert endpoint.may_take("k")


async def test_a_table_that_could_not_be_stored_is_in_force_and_told_until_it_is(
    store: Store,
) -> None:
    proxy = FullDisk()
    endpoint = await running(proxy, store)
    await endpoint.publish(table("a"))
    proxy.full = True
    await endpoint.publish(table("b"))
    assert [route.name for route in proxy.table.models] == ["b"]
    assert "could not be written" in endpoint.problem
    assert await endpoint.await_table(lambda t: [m.name for m in t.models] == ["b"], 0.01)
    assert not endpoint.may_take("any")
    proxy.full = False
    for told in (2, 3, 3):
        assert len(proxy.tables) == told
        await endpoint.publish(table("b"))
    assert proxy.tables[-1] == proxy.tables[-2]
    assert endpoint.problem == ""
