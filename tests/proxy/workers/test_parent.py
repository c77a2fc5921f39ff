"""Several worker processes behind one port are one proxy, whatever happens to the workers."""

import asyncio
import collections
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.platform.process_identity import is_alive
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import free_port, until
from tests.proxy.conftest import MakeEngine, MakeProcess, replica, table
from tests.proxy.scraped import stats_of
from tests.proxy.scripted import (
    DONE,
    ScriptedEngine,
    Step,
    answer,
    completion,
    plays,
    stream,
    text_event,
)

REQUESTS = "partitiond_proxy_requests_total"
DEADLINE = 240.0
"""Of each wait, in seconds; reached only where a test fails."""


@contextlib.asynccontextmanager
async def clients(process: ProxyProcess, connections: int) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(
        base_url=process.base_url, verify=False, timeout=300, limits=limits
    ) as client:
        yield client


async def complete(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": "m", "prompt": "x", **body})


async def served(process: ProxyProcess, count: int) -> None:
    async with clients(process, 8) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(count)))
    assert {a.status_code for a in answers} == {200}


async def until_state(
    process: ProxyProcess, is_so: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Wait for a state, and return its workers."""

    async def found() -> Mapping[str, Any] | None:
        state = await process.state()
        return None if state is None or not is_so(state) else state

    state = await until(found)
    workers: list[dict[str, Any]] = state["workers"]
    return workers


def exist(*pids: int) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def all_up(process: ProxyProcess) -> list[int]:
    """Their process ids, once both are there."""
    workers = await until_state(process, lambda state: len(state["workers"]) == 2)
    return [worker["pid"] for worker in workers]


async def replaced(process: ProxyProcess, *gone: int) -> list[int]:
    """Return the others' process ids when none of these is there any more, and both are."""
    await until_state(process, lambda s: not {w["pid"] for w in s["workers"]} & {*gone})
    return await all_up(process)


async def queued(process: ProxyProcess, count: int) -> None:
    await until_state(process, lambda state: state["queues"] == {"m": count})


async def up(process: ProxyProcess, routes: RoutingTable) -> tuple[ProxyProcess, list[int]]:
    """Start a proxy and tell it a table; its workers' process ids."""
    assert await process.ensure_running()
    pids = await all_up(process)
    await process.publish(routes)
    return process, pids


def parent_of(process: ProxyProcess) -> int:
    assert process.identity is not None
    return process.identity.pid


async def load(
    process: ProxyProcess, connections: int, until: Callable[[], bool], **body: object
) -> collections.Counter[Any]:
    """Requests on so many connections, one after the other on each; how they ended."""
    outcomes: collections.Counter[Any] = collections.Counter()

    async def one(client: httpx.AsyncClient) -> None:
        while not until():
            try:
                outcomes[(await complete(client, **body)).status_code] += 1
            except httpx.HTTPError as error:
                outcomes[repr(error)] += 1

    async with clients(process, connections) as client:
        await asyncio.gather(*(one(client) for _ in range(connections)))
    return outcomes


def held_stream(go_on: asyncio.Event) -> list[Step]:
    return stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)


@contextlib.asynccontextmanager
async def holding(
    process: ProxyProcess, engine: ScriptedEngine, count: int
) -> AsyncIterator[tuple[httpx.AsyncClient, list[asyncio.Task[httpx.Response]]]]:
    """So many streams that have begun; they end as the engine's script says."""
    before = len(engine.received)
    async with clients(process, 2 * count + 8) as client:
        running = [asyncio.create_task(complete(client, stream=True)) for _ in range(count)]
        await engine.until(lambda: len(engine.received) == before + count)
        yield client, running


async def test_two_workers_are_one_proxy_whose_log_the_parent_rotates_and_which_ends_in_peace(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    """Long streams split evenly, and those of all workers finish while it stops."""
    go_on = asyncio.Event()
    engine = await make_engine(
        lambda got: held_stream(go_on) if got.body.get("stream") else answer(completion())
    )
    process, pids = await up(
        make_process(workers=2, log_max_bytes=20_000, log_backups=50),
        table(replica(engine, max_sequences=64)),
    )
    log = folder / "s" / "log"
    await load(process, 8, lambda: len(engine.received) > 200)
    await until(lambda: len(list(log.iterdir())) > 1)
    await until_state(process, lambda s: not sum(w["connections"] for w in s["workers"]))
    asked = len(engine.received)
    async with holding(process, engine, 64) as (_, running):
        workers = await until_state(process, lambda s: s["in_flight"] == {"m-1": 64})
        assert [worker["connections"] for worker in workers] == [32, 32]
        stats = await stats_of(process)
        assert stats[REQUESTS] == asked
        assert stats['partitiond_proxy_limit_sequences{model="m",replica="m-1"}'] == 64
        identity = process.identity
        assert identity is not None
        assert identity.pid not in pids
        stopping = asyncio.create_task(process.stop(DEADLINE))
        await until_state(process, lambda state: state["draining"])
        go_on.set()
        for done in await asyncio.gather(*running):
            assert done.text.endswith("data: [DONE]\n\n")
            assert "error" not in done.text
        await stopping
    assert not is_alive(identity)
    assert exist(*pids) == []
    lines = [json.loads(line) for path in log.iterdir() for line in path.read_text().splitlines()]
    assert sum(line["event"] == "request" for line in lines) == len(engine.received)


async def test_who_comes_before_the_workers_is_spread_over_all_of_them(
    make_process: MakeProcess,
) -> None:
    port = free_port()
    process = make_process(port=port, workers=2)
    assert await process.ensure_running()
    early = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    workers = await until_state(
        process, lambda state: sum(worker["connections"] for worker in state["workers"]) == 8
    )
    assert [worker["connections"] for worker in workers] == [4, 4]
    for _, writer in early:
        writer.close()


async def test_a_killed_worker_is_replaced_and_harms_no_other(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go_on))
    process, pids = await up(make_process(workers=2), table(replica(engine, max_sequences=4)))
    async with holding(process, engine, 4) as (client, running):
        os.kill(pids[0], signal.SIGKILL)
        await replaced(process, pids[0])
        # Its two places are free again, and no more than those.
        later = [asyncio.create_task(complete(client, stream=True)) for _ in range(3)]
        await engine.until(lambda: len(engine.received) == 6)
        await queued(process, 1)
        go_on.set()
        done = await asyncio.gather(*running, *later, return_exceptions=True)
    whole = [d for d in done if isinstance(d, httpx.Response) and d.text.endswith("[DONE]\n\n")]
    assert len(whole) == 5
    assert await process.in_flight() == {"m-1": 0}


@pytest.mark.full
async def test_after_the_parent_was_killed_the_next_one_serves_and_counts_what_still_runs(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go_on))
    process, orphans = await up(
        make_process(port=free_port(), workers=2), table(replica(engine, max_sequences=4))
    )
    async with holding(process, engine, 4) as (client, running):
        os.kill(parent_of(process), signal.SIGKILL)
        await process.wait_exit()
        assert await process.ensure_running()
        new = await all_up(process)
        assert not set(new) & set(orphans)
        assert exist(*orphans) == orphans, "they are not waited for"
        late = asyncio.create_task(complete(client, stream=True))
        await queued(process, 1)
        assert len(engine.received) == 4, "what the orphans have in flight still counts"
        go_on.set()
        for done in await asyncio.gather(*running, late):
            assert done.text.endswith("data: [DONE]\n\n")
    await until(lambda: not exist(*orphans))
    # Killed as soon as it answers, its workers are about to start, or in the middle of it.
    await process.stop(0)
    await process.ensure_running()
    os.kill(parent_of(process), signal.SIGKILL)
    await process.wait_exit()
    await until(lambda: not of_folder(folder))


def of_folder(folder: Path) -> list[int]:
    """Processes that were started for this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.full
async def test_a_worker_that_comes_while_the_others_are_told_to_end_ends_as_well(
    make_process: MakeProcess, folder: Path
) -> None:
    process = make_process(workers=2)
    await process.ensure_running()
    first, second = await all_up(process)
    log, pid = folder / "s" / "log", parent_of(process)

    def children() -> set[int]:
        with contextlib.suppress(OSError):
            return {*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())}
        return set()

    def started() -> int:
        return sum(path.read_text().count('"worker_started"') for path in log.iterdir())

    os.kill(second, signal.SIGKILL)
    await until(lambda: not children() <= {first, second})  # another one starts in its place
    os.kill(first, signal.SIGSTOP)  # it does not answer that it is told to end
    # The grace is for requests, and there is none: only who is not told would wait for it.
    ending = asyncio.create_task(process.stop(10 * DEADLINE))
    await until(lambda: started() >= 3 or not children() - {first})
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    async with asyncio.timeout(DEADLINE):
        await ending


@pytest.mark.full
async def test_a_worker_that_hangs_is_replaced_and_stays_counted(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    process, pids = await up(
        make_process(workers=2), table(replica(await make_engine(plays(*answer(completion())))))
    )
    await served(process, 16)
    for stopped in (False, True):
        # What it counted is not missing while it does not answer, nor when it is gone.
        assert (await stats_of(process))[REQUESTS] == 16
        assert await process.sample() is not None
        if not stopped:
            os.kill(pids[0], signal.SIGSTOP)
    await replaced(process, pids[0])
    await served(process, 16)
    assert (await stats_of(process))[REQUESTS] == 32
    first = await process.sample()
    assert first is not None
    assert first.models["m"].ok == first.replicas["m-1"].ok == first.usage[""]["m"].requests == 32
    assert 0 < first.replicas["m-1"].busy_seconds <= first.replicas["m-1"].sequence_seconds
    await process.stop(0)
    last = process.last_sample()
    assert last is not None
    assert (last.epoch, last.models["m"].ok) == (first.epoch, 32)
    await process.ensure_running()
    anew = await process.sample()
    assert anew is not None
    assert anew.epoch != first.epoch
