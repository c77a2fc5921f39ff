"""Replicas without a listener get no requests, cost nothing, and come back by themselves."""

import asyncio
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from partitiond.core.dispatch.quarantine import Quarantine
from partitiond.core.dispatch.retry_budget import RESERVE
from partitiond.proxy.dispatch.replicas import LiveReplica, listens
from tests.proxy.conftest import Make, Proxy, error_of, replica, table
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, completion, plays

CLIENTS = 8
REQUESTS = 160
NOBODY = (503, "upstream_connect")
SERVED = (200, "")


def members(proxy: Proxy) -> dict[str, LiveReplica]:
    return proxy.state.models["m"].replicas


async def ask(proxy: Proxy, prompt: str = "hi") -> tuple[int, str]:
    return error_of(await proxy.complete(prompt=prompt))


async def two(make: Make, one: ScriptedEngine, other: ScriptedEngine, **options: int) -> Proxy:
    """A proxy before two engines, of which the other takes nothing until `opened`."""
    routes = replica(one, "m-1", max_sequences=99), replica(other, "m-2", draining=True)
    return await make.proxy(table(*routes), **options)


def opened(proxy: Proxy, one: ScriptedEngine, other: ScriptedEngine) -> None:
    routes = replica(one, "m-1", max_sequences=99), replica(other, "m-2", max_sequences=1)
    proxy.state.apply(table(*routes, version=2))


async def load(proxy: Proxy, tables: int) -> Counter[tuple[int, str]]:
    """What became of 160 requests of eight clients; some of them send the same table again."""
    left, ended = iter(range(REQUESTS)), Counter[tuple[int, str]]()

    async def asks() -> None:
        for number in left:
            if number % (REQUESTS // tables) == 0:
                now = proxy.state.table
                proxy.state.apply(table(*now.replicas, version=now.version + 1))
            ended[await ask(proxy, f"number {number}")] += 1

    await asyncio.gather(*(asks() for _ in range(CLIENTS)))
    return ended


@pytest.mark.parametrize(("replicas", "limit"), [(4, CLIENTS), (3, 2)])
async def test_one_that_is_alive_serves_what_it_has_room_for(
    make: Make, folder: Path, replicas: int, limit: int
) -> None:
    """Also where it has room for fewer than there are, and while the daemon sends tables."""
    alive = await make.engine(name="alive")
    routes = [replica(alive, "m-0", max_sequences=limit)]
    routes += [replica(folder / f"{n}.sock", f"m-{n}", max_sequences=8) for n in range(1, replicas)]
    proxy = await make.proxy(table(*routes))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "1.sock"))  # there, but refused; the others are not even there
        assert await load(proxy, 8) == {SERVED: REQUESTS}
    assert len(alive.received) == REQUESTS
    retries = proxy.state.models["m"].retries
    assert retries.credit > RESERVE, "no retry was taken from it"
    # Each client finds out at most once per replica: a probe brings none of them back.
    failures = proxy.state.metrics.upstream_failures
    assert sum(failures.values()) <= CLIENTS * (replicas - 1)
    assert proxy.idle()


async def test_what_found_nobody_is_no_attempt_and_no_retry_and_has_a_line_of_its_own(
    make: Make, folder: Path
) -> None:
    alive = await make.engine(name="alive")
    dead = [replica(folder / f"{n}.sock", f"m-{n}", max_sequences=99) for n in range(1, 6)]
    routes = table(replica(alive, "m-0", max_sequences=1), *dead)
    proxy = await make.proxy(routes, max_attempts=1, retry_share=0.0)
    while not any(one.is_dead for one in members(proxy).values()):
        assert await ask(proxy) == SERVED
    await proxy.until(proxy.idle)
    assert {line["attempts"] for line in proxy.records()} == {1}
    assert {line["kind"] for line in proxy.records("attempt_failed")} == {"connect"}
    assert "m-0" not in {line["replica"] for line in proxy.records("attempt_failed")}


async def test_all_dead_is_told_at_once_and_who_is_back_serves_without_another_table(
    make: Make,
) -> None:
    first, second = await make.engine(name="e1"), await make.engine(name="e2")
    proxy = await make.proxy(table(replica(first, "m-1"), replica(second, "m-2")))
    await first.stop()
    await second.stop()
    began = time.monotonic()
    for _ in range(3):
        refused = await proxy.complete()
        assert (error_of(refused), refused.headers["retry-after"]) == (NOBODY, "1")
    assert time.monotonic() == began, "nobody waits"
    assert all(one.is_dead for one in members(proxy).values())
    for back, name in ((second, "m-2"), (first, "m-1")):
        await back.start()
        await proxy.until(lambda name=name: not members(proxy)[name].ejected)  # type: ignore[misc]
        assert await ask(proxy) == SERVED
        await second.stop()
    assert (len(first.received), len(second.received)) == (1, 1)
    assert proxy.idle()


async def test_who_waits_for_the_last_one_is_told_when_it_dies(make: Make) -> None:
    go = asyncio.Event()
    proxy, engine = await make.both(plays(go, "reset"), at={"max_sequences": 1})
    running = proxy.ask(prompt="a")
    await engine.got(1)
    waiting = [proxy.ask(prompt=f"b{n}") for n in range(3)]
    await proxy.queued(3)
    engine.path.unlink()
    go.set()
    assert [error_of(await one) for one in waiting] == [NOBODY] * 3
    await running
    assert len(engine.received) == 1
    assert proxy.idle()


async def test_one_that_lets_finish_what_runs_is_withdrawn_and_nobody_suspected(
    make: Make,
) -> None:
    """As servers end on SIGTERM: they accept nothing more, and finish."""
    go = asyncio.Event()
    ending, other = (
        await make.engine(plays(go, *answer(completion())), "e1"),
        await make.engine(name="e2"),
    )
    proxy = await two(make, ending, other)
    running = proxy.ask(prompt="runs on")
    await ending.got(1)
    members(proxy)["m-1"].failed("a")
    ending.path.unlink()
    assert await ask(proxy, "comes later") == NOBODY
    opened(proxy, ending, other)
    assert members(proxy)["m-1"].is_dead, "the new table knows no more than the old one"
    assert await ask(proxy, "runs on") == SERVED, "its twin is no suspect"
    go.set()
    assert error_of(await running) == SERVED
    assert members(proxy)["m-1"].ejected, "what it finished is no sign that it takes more"
    assert await ask(proxy) == SERVED
    assert len(ending.received) == 1
    assert proxy.idle()


async def test_who_it_may_have_died_of_is_known_though_another_found_it_dead_before(
    make: Make,
) -> None:
    go = asyncio.Event()
    dying, other = await make.engine(plays(go, "reset"), "e1"), await make.engine(name="e2")
    proxy = await two(make, dying, other)
    proxy.state.quarantine = Quarantine(suspect_seconds=600.0)
    killer = proxy.ask(prompt="kills")
    await dying.got(1)
    dying.path.unlink()
    assert await ask(proxy, "finds nobody") == NOBODY
    opened(proxy, dying, other)
    go.set()
    assert error_of(await killer) == (422, "request_quarantined")
    assert await ask(proxy, "finds nobody") == SERVED
    assert len(other.received) == 1


async def test_a_request_that_was_sent_is_a_retry_like_any_other(make: Make) -> None:
    """The engine dies with it; that nobody listens afterwards does not make it unsent."""

    def dies(request: Received) -> list[Step]:
        if request.body["prompt"] == "well":
            return answer(completion())
        dying.path.unlink()
        return ["reset"]

    dying, other = await make.engine(dies, "e1"), await make.engine(name="e2")
    proxy = await two(make, dying, other, max_attempts=1)
    assert await ask(proxy, "well") == SERVED
    # Nobody is a suspect, so that it may be sent again.
    proxy.state.quarantine = Quarantine(suspect_seconds=0.0)
    killed = proxy.ask(prompt="kills")
    await dying.got(2)
    opened(proxy, dying, other)
    assert error_of(await killed) == (502, "upstream_reset")
    assert other.received == []
    assert members(proxy)["m-1"].is_dead


async def test_another_process_behind_the_socket_starts_without_a_past(make: Make) -> None:
    engine, other = await make.engine(name="e1"), await make.engine(name="e2")
    proxy = await make.proxy(table(replica(engine, "m-1"), replica(other, "m-2")))
    one = members(proxy)["m-1"]
    for source in "abc":
        one.failed(source)
    assert (one.ejected, one.is_dead) == (True, False)
    await engine.stop()
    assert one.connect_failed()
    await engine.start()
    await proxy.until(lambda: not one.is_dead)
    assert one.reputation.failures == one.doubt == 0
    assert not one.ejected


async def test_a_dead_replica_that_left_the_table_is_not_looked_at_any_more(
    make: Make, folder: Path
) -> None:
    engine = await make.engine()
    proxy = await make.proxy(table(replica(engine, "m-1"), replica(folder / "none", "m-2")))
    gone = members(proxy)["m-2"]
    assert gone.connect_failed()
    proxy.state.apply(table(replica(engine, "m-1"), version=2))
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(folder / "none"))
        there.listen()
        there.setblocking(False)
        gone.look_again()  # what its timer calls
        with pytest.raises(BlockingIOError):
            there.accept()


async def test_a_socket_without_a_listener_is_nobody_and_a_full_one_is_not_dead(
    folder: Path,
) -> None:
    path = str(folder / "left.sock")
    assert not listens(path)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        assert not listens(path)
        engine.listen(0)
        assert listens(path)  # and its connection fills the backlog
        assert listens(path)
    assert not listens(path)
