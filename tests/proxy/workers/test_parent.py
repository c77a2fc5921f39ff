"""Several worker processes behind one port are one proxy, whatever happens to the workers."""

import asyncio
import collections
import contextlib
import json
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.process import is_alive
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import free_port
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.scripted import (
    DONE,
    Received,
    ScriptedEngine,
    Step,
    answer,
    completion,
    stream,
    text_event,
)

REQUESTS = "partitiond_proxy_requests_total"
DEADLINE = 240.0
"""Of each wait, in seconds; reached only where a test fails."""

MakeProcess = Callable[..., ProxyProcess]


@pytest.fixture
async def make_process(folder: Path) -> AsyncIterator[MakeProcess]:
    made: list[ProxyProcess] = []

    def make(port: int = 0, **options: object) -> ProxyProcess:
        process = ProxyProcess(
            host="127.0.0.1",
            port=port,
            state_dir=folder / "s",
            control_socket=folder / "s" / "run" / "proxy.sock",
            options=ProxyOptions(**{"workers": 2, **options}),  # type: ignore[arg-type]
        )
        made.append(process)
        (folder / "s").mkdir(exist_ok=True)
        return process

    yield make
    for process in made:
        await process.stop(0)


@contextlib.asynccontextmanager
async def clients(process: ProxyProcess, connections: int) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(
        base_url=process.base_url, verify=False, timeout=300, limits=limits
    ) as client:
        yield client


async def complete(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": "m", "prompt": "x", **body})


async def workers_of(process: ProxyProcess) -> list[dict[str, Any]]:
    state = await process.state()
    assert state is not None
    workers: list[dict[str, Any]] = state["workers"]
    return workers


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something of other processes, which has no event."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def exist(*pids: int) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def all_up(process: ProxyProcess, count: int = 2) -> list[int]:
    """Their process ids, once all are there."""
    async with asyncio.timeout(DEADLINE):
        while True:
            staying = [w["pid"] for w in await workers_of(process) if not w["leaving"]]
            if len(staying) == count:
                return staying
            await asyncio.sleep(0.02)


async def up(process: ProxyProcess, routes: RoutingTable) -> tuple[ProxyProcess, list[int]]:
    """Start a proxy and tell it a table; its workers' process ids."""
    assert await process.ensure_running()
    pids = await all_up(process)
    await process.publish(routes)
    return process, pids


async def replaced(process: ProxyProcess, *gone: int) -> None:
    """Return when none of these is there any more, and all are."""
    async with asyncio.timeout(DEADLINE):
        while set(gone) & {w["pid"] for w in await workers_of(process)}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await all_up(process)


async def control(process: ProxyProcess, method: str, path: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(process._control_socket))
    async with httpx.AsyncClient(transport=transport, timeout=300, verify=False) as client:
        return await client.request(method, f"http://proxy{path}")


class Counting:
    """An engine script that notes how many requests run at once."""

    def __init__(self, engine_seconds: float = 0.002) -> None:
        self.seconds = engine_seconds
        self.running = 0
        self.most = 0

    def __call__(self, _: Received) -> list[Step]:
        self.running += 1
        self.most = max(self.most, self.running)
        asyncio.get_running_loop().call_later(self.seconds, self._end)
        # It counts as ended before its answer is sent, so none is counted too long.
        return [self.seconds + 0.001, *answer(completion())]

    def _end(self) -> None:
        self.running -= 1


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


async def test_two_workers_are_one_proxy_and_long_streams_split_evenly(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(
        lambda got: held_stream(go_on) if got.body.get("stream") else answer(completion())
    )
    process, pids = await up(make_process(), table(replica(engine, max_sequences=64)))
    async with clients(process, 8) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(40)))
    assert {a.status_code for a in answers} == {200}
    async with asyncio.timeout(DEADLINE):
        while sum(w["connections"] for w in await workers_of(process)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    async with holding(process, engine, 64) as (_, running):
        assert [w["connections"] for w in await workers_of(process)] == [32, 32]
        assert await process.in_flight() == {"m-1": 64}
        go_on.set()
        for done in await asyncio.gather(*running):
            assert done.text.endswith("data: [DONE]\n\n")
    stats = await process.stats()
    assert stats[REQUESTS] == 104
    assert stats['partitiond_proxy_limit_sequences{model="m",replica="m-1"}'] == 64
    assert stats["partitiond_proxy_routing_version"] == 1
    assert await process.in_flight() == {"m-1": 0}
    identity = process.identity
    assert identity is not None
    assert identity.pid not in pids
    await process.stop(1)
    assert not is_alive(identity)
    assert exist(*pids) == []


@pytest.mark.full
async def test_workers_without_a_file_left_lose_no_connection(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    process, pids = await up(make_process(), table(replica(await make_engine())))
    soft, hard = resource.prlimit(pids[0], resource.RLIMIT_NOFILE)

    async def connections() -> int:
        return sum(worker["connections"] for worker in await workers_of(process))

    async with asyncio.timeout(DEADLINE):
        async with clients(process, 6) as client:
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, hard))
            asked = [asyncio.create_task(complete(client)) for _ in range(6)]
            while await connections() < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        while await connections():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_killed_worker_is_replaced_and_harms_no_other(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go_on))
    process, pids = await up(make_process(), table(replica(engine, max_sequences=4)))
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


async def queued(process: ProxyProcess, count: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            state = await process.state()
            if state is not None and state["queues"] == {"m": count}:
                return
            await asyncio.sleep(0.01)


@pytest.mark.full
async def test_workers_are_replaced_under_load_without_a_failed_request(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine(Counting())
    process, before = await up(make_process(), table(replica(engine), max_queue=1000))
    over = asyncio.Event()
    loading = asyncio.create_task(load(process, 12, over.is_set))
    await engine.until(lambda: len(engine.received) > 50)
    assert (await control(process, "POST", "/restart-workers")).status_code == 202
    assert (await control(process, "POST", "/restart-workers")).status_code == 409
    await replaced(process, *before)
    count = len(engine.received)
    await engine.until(lambda: len(engine.received) > count + 50)
    over.set()
    outcomes = await loading
    assert set(outcomes) == {200}
    assert (await process.stats())["partitiond_proxy_requests_total"] == outcomes[200]
    assert len(await all_up(process)) == 2


@pytest.mark.full
async def test_sighup_replaces_the_workers(make_process: MakeProcess) -> None:
    process = make_process()
    await process.ensure_running()
    before = await all_up(process)
    assert process.identity is not None
    os.kill(process.identity.pid, signal.SIGHUP)
    await replaced(process, *before)
    assert len(await all_up(process)) == 2


@pytest.mark.full
async def test_route_updates_under_load_reach_all_workers_and_stop_nothing(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    first, second = await make_engine(name="e1"), await make_engine(name="e2")
    process, _ = await up(make_process(), table(replica(first), max_queue=1000))
    over = asyncio.Event()
    loading = asyncio.create_task(load(process, 8, over.is_set))
    for version in range(2, 30):
        engine = second if version % 2 else first
        await process.publish(
            table(replica(engine, generation=f"{version}-1"), version=version, max_queue=1000)
        )
        count = len(engine.received)
        await engine.until(lambda e=engine, c=count: len(e.received) > c + 2)  # type: ignore[misc]
    over.set()
    outcomes = await loading
    assert set(outcomes) == {200}
    state = await process.state()
    assert state is not None
    assert state["version"] == 29
    assert state["in_flight"] == {"m-1": 0}


@pytest.mark.full
async def test_after_the_parent_was_killed_the_next_one_serves_and_counts_what_still_runs(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go_on))
    process, orphans = await up(
        make_process(port=free_port()), table(replica(engine, max_sequences=4))
    )
    async with holding(process, engine, 4) as (client, running):
        assert process.identity is not None
        os.kill(process.identity.pid, signal.SIGKILL)
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


@pytest.mark.full
async def test_workers_whose_parent_is_killed_while_they_start_go_away(
    make_process: MakeProcess, folder: Path
) -> None:
    """Killed as soon as it answers: then they are about to start, or in the middle of it."""
    process = make_process()
    await process.ensure_running()
    assert process.identity is not None
    os.kill(process.identity.pid, signal.SIGKILL)
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
async def test_the_queues_bound_is_for_all_workers_together(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: [go_on, *answer(completion())])
    process, _ = await up(make_process(), table(replica(engine, max_sequences=1), max_queue=4))
    async with clients(process, 12) as client:
        sent = [asyncio.create_task(complete(client)) for _ in range(12)]
        await engine.until(lambda: len(engine.received) == 1)
        await queued(process, 4)
        async with asyncio.timeout(DEADLINE):
            while sum(task.done() for task in sent) < 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        refused = [task.result() for task in sent if task.done()]
        assert {r.status_code for r in refused} == {429}
        assert {r.json()["error"]["code"] for r in refused} == {"queue_full"}
        go_on.set()
        served = [r for r in await asyncio.gather(*sent) if r.status_code == 200]
    assert len(served) == 5


async def test_stopping_lets_requests_of_all_workers_finish(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go_on))
    process, _ = await up(make_process(), table(replica(engine)))
    async with holding(process, engine, 4) as (_, running):
        stopping = asyncio.create_task(process.stop(DEADLINE))
        async with asyncio.timeout(DEADLINE):
            while not (await process.state() or {"draining": True})["draining"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        go_on.set()
        for done in await asyncio.gather(*running):
            assert done.text.endswith("data: [DONE]\n\n")
            assert "error" not in done.text
        await stopping


@pytest.mark.full
async def test_a_worker_that_comes_while_the_others_are_told_to_end_ends_as_well(
    make_process: MakeProcess, folder: Path
) -> None:
    process = make_process()
    await process.ensure_running()
    first, second = await all_up(process)
    log = folder / "s" / "log"
    assert process.identity is not None
    pid = process.identity.pid

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
async def test_a_worker_that_hangs_is_replaced(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    process, pids = await up(make_process(), table(replica(engine)))
    async with clients(process, 8) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(16)))
        assert {a.status_code for a in answers} == {200}
        before = await process.stats()
        os.kill(pids[0], signal.SIGSTOP)
        # What it counted is not missing while it does not answer, nor when it is gone.
        assert (await process.stats())[REQUESTS] == before[REQUESTS] == 16
    await replaced(process, pids[0])
    async with clients(process, 8) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(16)))
    assert {a.status_code for a in answers} == {200}
    assert (await process.stats())[REQUESTS] == 32


async def test_all_write_one_log_that_only_the_parent_rotates(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    engine = await make_engine()
    process, _ = await up(
        make_process(log_max_bytes=20_000, log_backups=50), table(replica(engine))
    )
    log = folder / "s" / "log"
    await load(process, 8, lambda: len(engine.received) > 200)
    await until(lambda: len(list(log.iterdir())) > 1)
    await load(process, 8, lambda: len(engine.received) > 400)
    await process.stop(1)
    lines = [json.loads(line) for path in log.iterdir() for line in path.read_text().splitlines()]
    assert sum(line["event"] == "request" for line in lines) == len(engine.received)
