"""The endpoint is told the newest table until it is known to have it, and no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, RoutingTable
from partitiond.core.errors import PartitiondError
from partitiond.store import Store, open_store
from tests.controller.fakes import FakeClock, FakeProxy


class FullDisk(FakeProxy):
    """Has each table in force, and while its disk is full says that it could not store it."""

    full = False

    async def publish(self, table: RoutingTable) -> None:
        await super().publish(table)
        if self.full:
            raise PartitiondError("The routing table could not be written.")


def table(*models: str) -> RoutingTable:
    routes = tuple(ModelRoute(name, ModelAvailability.SERVING, name) for name in models)
    return RoutingTable(version=0, models=routes, replicas=())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "store.sqlite3")
    yield store
    store.close()


async def test_a_change_that_was_not_confirmed_and_is_taken_back_is_told_again(
    store: Store,
) -> None:
    clock, proxy = FakeClock(), FullDisk()
    endpoint = Endpoint(
        proxy, store=store, clock=clock, journal=Journal(store, clock), wake=lambda: None
    )
    await proxy.ensure_running()
    await endpoint.publish(table("a"))
    proxy.full = True
    await endpoint.publish(table("b"))
    assert [route.name for route in proxy.table.models] == ["b"]
    assert "could not be written" in endpoint.problem
    assert not await endpoint.await_table(lambda t: [m.name for m in t.models] == ["a"], 0.01)
    assert endpoint.may_take("any")
    proxy.full = False
    await endpoint.publish(table("a"))
    assert [route.name for route in proxy.table.models] == ["a"]
    assert endpoint.problem == ""
    told = len(proxy.tables)
    await endpoint.publish(table("a"))
    assert len(proxy.tables) == told
