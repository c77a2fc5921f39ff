"""Replicas without a listener get no requests, cost nothing, and come back by themselves."""

import asyncio
import json
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from partitiond.core.dispatch.balance import HEALTHY
from partitiond.core.dispatch.quarantine import Quarantine, QuarantinePolicy
from partitiond.proxy.dispatch.replicas import LiveReplica, listens
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, error_of, replica, table
from tests.proxy.scripted import Received, Step, answer, completion, plays

CLIENTS = 8
REQUESTS = 160


async def load(proxy: Proxy, tables: int = 0) -> Counter[tuple[int, str]]:
    """What became of 160 requests of eight clients; some of them send the same table again."""
    left, ended = iter(range(REQUESTS)), Counter[tuple[int, str]]()
    async with proxy.client as client:

        async def asks() -> None:
            for number in left:
                if tables and number % (REQUESTS // tables) == 0:
                    now = proxy.state.table
                    proxy.state.apply(table(*now.replicas, version=now.version + 1))
                body = {"model": "m", "prompt": f"number {number}"}
                ended[error_of(await client.post("/v1/completions", json=body))] += 1

        await asyncio.gather(*(asks() for _ in range(CLIENTS)))
    return ended


def members(proxy: Proxy) -> dict[str, LiveReplica]:
    return proxy.state.models["m"].replicas


@pytest.mark.parametrize("case", [(3, CLIENTS, 0), (4, CLIENTS, 8), (3, 2, 8), (4, 2, 0)])
async def test_one_that_is_alive_serves_what_it_has_room_for(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path, case: tuple[int, int, int]
) -> None:
    """Also where it has room for fewer than there are, and while the daemon sends tables."""
    replicas, limit, tables = case
    alive = await make_engine(name="alive")
    routes = [replica(alive, "m-0", max_sequences=limit)]
    routes += [replica(folder / f"{n}.sock", f"m-{n}", max_sequences=8) for n in range(1, replicas)]
    proxy = await make_proxy(table(*routes))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "1.sock"))  # there, but refused; the others are not even there
        assert await load(proxy, tables) == {(200, ""): REQUESTS}
    assert len(alive.received) == REQUESTS
    credit = proxy.state.models["m"].retries.credit
    assert credit > proxy.state.models["m"].retries.reserve, "no retry was taken from it"
    # Each client finds out at most once per replica: a probe brings none of them back.
    failures = proxy.state.metrics.upstream_failures
    assert sum(failures.values()) <= CLIENTS * (replicas - 1)
    assert proxy.idle()


async def test_a_replica_that_nobody_listens_on_takes_no_attempt_and_no_retry(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path
) -> None:
    alive = await make_engine(name="alive")
    proxy = await make_proxy(
        table(
            replica(alive, "m-0", max_sequences=1),
            *(replica(folder / f"{n}.sock", f"m-{n}", max_sequences=99) for n in range(1, 6)),
        ),
        max_attempts=1,
        retry_share=0.0,
        debug_headers="always",
    )
    for _ in range(8):
        served = await proxy.complete()
        assert error_of(served) == (200, "")
        assert served.headers["x-partitiond-attempts"] == "1"
    assert proxy.idle()


async def test_it_is_back_once_somebody_listens_without_another_table(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    first, second = await make_engine(name="e1"), await make_engine(name="e2")
    proxy = await make_proxy(table(replica(first, "m-1"), replica(second, "m-2")))
    for here, there in ((first, second), (second, first), (first, second)):
        await here.stop()
        name = "m-1" if here is first else "m-2"
        while not members(proxy)[name].is_dead:
            assert error_of(await proxy.complete()) == (200, "")
        await here.start()
        await proxy.until(lambda: not any(one.ejected for one in members(proxy).values()))
        await there.stop()
        before = len(here.received)
        assert error_of(await proxy.complete()) == (200, "")
        assert len(here.received) == before + 1
        await there.start()
        await proxy.until(lambda: not any(one.ejected for one in members(proxy).values()))
    assert proxy.idle()


async def test_all_dead_is_told_at_once_and_the_first_that_is_back_serves(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    first, second = await make_engine(name="e1"), await make_engine(name="e2")
    proxy = await make_proxy(table(replica(first, "m-1"), replica(second, "m-2")))
    await first.stop()
    await second.stop()
    began = time.monotonic()
    for _ in range(3):
        refused = await proxy.complete()
        assert error_of(refused) == (503, "upstream_connect")
        assert refused.headers["retry-after"] == "1"
    assert time.monotonic() == began, "nobody waits"
    assert all(one.is_dead for one in members(proxy).values())
    await second.start()
    await proxy.until(lambda: not members(proxy)["m-2"].ejected)
    assert error_of(await proxy.complete()) == (200, "")
    assert len(second.received) == 1
    assert proxy.idle()


async def test_who_waits_for_the_last_one_is_told_when_it_dies(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()
    engine = await make_engine(lambda _: [go, "reset"])
    proxy = await make_proxy(table(replica(engine, max_sequences=1)))
    running = proxy.ask(prompt="a")
    await engine.got(1)
    waiting = [proxy.ask(prompt=f"b{n}") for n in range(3)]
    await proxy.queued(3)
    engine.path.unlink()
    go.set()
    for one in waiting:
        assert error_of(await one) == (503, "upstream_connect")
    await running
    assert len(engine.received) == 1
    assert proxy.idle()


async def test_one_that_lets_finish_what_runs_is_withdrawn_and_nobody_suspected(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """As servers end on SIGTERM: they accept nothing more, and finish."""
    go = asyncio.Event()

    ending = await make_engine(plays(go, *answer(completion())), "e1")
    other = await make_engine(name="e2")
    proxy = await make_proxy(
        table(replica(ending, "m-1", max_sequences=99), replica(other, "m-2", draining=True))
    )
    running = proxy.ask(prompt="runs on")
    await ending.got(1)
    members(proxy)["m-1"].failed()
    ending.path.unlink()
    assert error_of(await proxy.complete(prompt="comes later")) == (503, "upstream_connect")
    routes = replica(ending, "m-1", max_sequences=99), replica(other, "m-2", max_sequences=1)
    proxy.state.apply(table(*routes, version=2))
    assert members(proxy)["m-1"].is_dead, "the new table knows no more than the old one"
    assert error_of(await proxy.complete(prompt="runs on")) == (200, ""), "its twin is no suspect"
    go.set()
    assert error_of(await running) == (200, "")
    assert members(proxy)["m-1"].ejected, "what it finished is no sign that it takes more"
    members(proxy)["m-1"]._return()  # as after an ejection that has ended meanwhile
    assert members(proxy)["m-1"].ejected
    assert error_of(await proxy.complete()) == (200, "")
    assert len(ending.received) == 1
    assert proxy.idle()


async def test_who_it_may_have_died_of_is_known_though_another_found_it_dead_before(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()
    dying, other = await make_engine(lambda _: [go, "reset"], "e1"), await make_engine(name="e2")
    proxy = await make_proxy(table(replica(dying, "m-1"), replica(other, "m-2", draining=True)))
    proxy.state.quarantine = Quarantine(QuarantinePolicy(suspect_seconds=600.0))
    killer = proxy.ask(prompt="kills")
    await dying.got(1)
    dying.path.unlink()
    assert error_of(await proxy.complete(prompt="finds nobody")) == (503, "upstream_connect")
    proxy.state.apply(table(replica(dying, "m-1"), replica(other, "m-2"), version=2))
    go.set()
    assert error_of(await killer) == (422, "request_quarantined")
    assert error_of(await proxy.complete(prompt="finds nobody")) == (200, "")
    assert len(other.received) == 1


async def test_a_request_that_was_sent_is_a_retry_like_any_other(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """The engine dies with it; that nobody listens afterwards does not make it unsent."""

    def dies(request: Received) -> list[Step]:
        if request.body["prompt"] == "well":
            return answer(completion())
        dying.path.unlink()
        return ["reset"]

    dying, other = await make_engine(dies, "e1"), await make_engine(name="e2")
    proxy = await make_proxy(
        table(replica(dying, "m-1"), replica(other, "m-2", draining=True)), max_attempts=1
    )
    assert error_of(await proxy.complete(prompt="well")) == (200, "")
    # Nobody is a suspect, so that it may be sent again.
    proxy.state.quarantine = Quarantine(QuarantinePolicy(suspect_seconds=0.0))
    killed = proxy.ask(prompt="kills")
    await dying.got(2)
    proxy.state.apply(table(replica(dying, "m-1"), replica(other, "m-2"), version=2))
    assert error_of(await killed) == (502, "upstream_reset")
    assert other.received == []
    assert members(proxy)["m-1"].is_dead


async def test_the_share_is_of_those_that_listen(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path
) -> None:
    """Wrong answers eject at most half of them, however many are dead; and deaths all."""
    engines = [await make_engine(lambda _: ["reset"], f"e{n}") for n in range(2)]
    routes = [replica(engine, f"m-{n}") for n, engine in enumerate(engines)]
    routes += [replica(folder / f"none{n}.sock", f"none-{n}") for n in range(2)]
    proxy = await make_proxy(table(*routes))
    live = members(proxy)
    for name in ("none-0", "none-1"):
        assert live[name].connect_failed()
    for name in ("m-0", "m-1"):
        for _ in range(5):
            live[name].failed()
    assert [name for name, one in live.items() if not one.ejected] == ["m-1"]
    assert [name for name, one in live.items() if one.is_dead] == ["none-0", "none-1"]


async def test_another_process_behind_the_socket_starts_without_a_past(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine, other = await make_engine(name="e1"), await make_engine(name="e2")
    proxy = await make_proxy(table(replica(engine, "m-1"), replica(other, "m-2")))
    one = members(proxy)["m-1"]
    for _ in range(3):
        one.failed()
    assert one.ejected
    assert not one.is_dead
    await engine.stop()
    assert one.connect_failed()
    await engine.start()
    await proxy.until(lambda: not one.is_dead)
    assert one.health is HEALTHY
    assert not one.ejected


async def test_a_dead_replica_that_left_the_table_is_not_looked_at_any_more(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine, "m-1"), replica(folder / "none", "m-2")))
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


async def test_a_socket_that_an_engine_left_behind_is_nobody(folder: Path) -> None:
    path = str(folder / "left.sock")
    assert not listens(path)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        assert not listens(path)
        engine.listen()
        assert listens(path)
    assert not listens(path)


async def test_an_engine_with_no_room_for_another_connection_is_not_dead(folder: Path) -> None:
    path = str(folder / "full.sock")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as filler:
        full.bind(path)
        full.listen(0)
        filler.connect(path)
        assert listens(path)


async def test_what_found_nobody_is_told_by_a_line_of_its_own(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path
) -> None:
    alive = await make_engine()
    proxy = await make_proxy(
        table(
            replica(alive, "m-0", max_sequences=1),
            replica(folder / "none", "m-1", max_sequences=99),
        )
    )
    while not members(proxy)["m-1"].is_dead:
        await proxy.complete()
    await proxy.until(proxy.idle)
    lines = [json.loads(line) for line in proxy.log_lines]
    (unreached,) = [line for line in lines if line["event"] == "attempt_failed"]
    assert (unreached["replica"], unreached["kind"]) == ("m-1", "connect")
    assert {line["attempts"] for line in lines if line["event"] == "request"} == {1}
