"""The loop goes on while another process locks the store, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.api.app import create_app
from partitiond.controller.store_waits import StoreWaits
from partitiond.core.errors import StoreError
from partitiond.core.keys.record import KeyTerms
from partitiond.core.profile.jobs import JobState
from partitiond.store import open_store
from tests.api.conftest import TOKEN, asking
from tests.controller.fakes import a_moment
from tests.controller.host import Host, serving
from tests.controller.profiles.test_jobs import Desk
from tests.machine import until
from tests.store.holder import locked


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    here = Host(open_store(tmp_path / "s.sqlite3", patience_seconds=0.01))
    here.service.parts.store_waits._seconds = 0.05
    async with serving(here):
        yield here


def path(host: Host) -> str:
    return host.store.path


async def test_an_engine_that_dies_is_replaced_and_its_route_withdrawn(host: Host) -> None:
    await host.register("a", max_replicas=1)
    await host.serves("a")
    (old,) = [route.generation for route in host.proxy.table.replicas]
    told = len(host.kinds())
    with locked(path(host)):
        host.runner.die(next(iter(host.runner.running())))
        await until(lambda: host.proxy.table.replicas == ())

        def another() -> bool:
            host.clock.now += 1.0
            return any(route.generation != old for route in host.proxy.table.replicas)

        await until(another)
        assert "store" in host.service.readiness.problems()
        assert len(host.kinds()) == told
    await until(lambda: "store" not in host.service.readiness.problems())
    kinds = host.kinds()[told:]
    assert kinds.index("engine-failed") < kinds.index("engine-starting")
    versions = [table.version for table in host.proxy.tables]
    assert versions == sorted(set(versions))


async def test_a_store_whose_file_was_moved_is_not_ready_and_takes_no_key(host: Host) -> None:
    file = Path(path(host))
    file.rename(file.with_name("moved"))  # noqa: ASYNC240
    assert "removed" in host.service.readiness.problems()["store"]
    with pytest.raises(StoreError, match="moved"):
        await host.service.keys.create(KeyTerms())
    file.with_name("moved").rename(file)
    await until(lambda: "store" not in host.service.readiness.problems())
    assert list(host.service.keys.keys()) == []


async def test_a_job_that_ends_has_ended_as_soon_as_the_lock_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("partitiond.controller.profiles.jobs.WRITE_AGAIN_SECONDS", 3600.0)
    store = open_store(tmp_path / "s.sqlite3", patience_seconds=0.01)
    desk = Desk(store)
    job = await desk.submit("a")
    with locked(store.path):
        desk.running["a"].set_result("x")
        await a_moment()
        assert desk.queue.awaited
        assert "not written" not in caplog.text  # which would be tried again much later
    await until(lambda: not desk.queue.awaited)
    assert desk.ended == [(job.id, JobState.SUCCEEDED)]
    await desk.queue.close()
    store.close()


async def test_whoever_changes_something_is_told_to_ask_again(host: Host) -> None:
    async with asking(create_app(host.service, admin_token=TOKEN)) as http:
        with locked(path(host)):
            refused = await http.post("/keys", json={"label": "one"})
            assert refused.status_code == 503
            assert refused.json()["code"] == "store_busy"
            assert int(refused.headers["Retry-After"]) > 0
            assert "ask again" in refused.json()["hint"]
            assert (await http.get("/models")).status_code == 200
            assert (await http.get("/keys")).json() == []
        assert (await http.post("/keys", json={"label": "one"})).status_code < 300
        assert len((await http.get("/keys")).json()) == 1


async def test_many_wait_in_one_thread(tmp_path: Path) -> None:
    waited = []

    class Store:
        def wait_until_writable(self, seconds: float) -> None:
            waited.append(seconds)

    waits = StoreWaits(Store())  # type: ignore[arg-type]
    await asyncio.gather(*(waits.until_writable() for _ in range(20)))
    assert len(waited) == 1
    await waits.until_writable()
    assert len(waited) == 2
