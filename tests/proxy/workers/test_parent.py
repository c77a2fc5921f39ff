"""Several worker processes behind one port are one proxy, whatever happens to the workers."""

import asyncio
import collections
import contextlib
import itertools
import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.process import is_alive
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import free_port, in_time, timed, timing
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


async def all_up(process: ProxyProcess, count: int = 2) -> list[int]:
    """Their process ids, once all are there."""
    async with asyncio.timeout(240):
        while True:
            staying = [w["pid"] for w in await workers_of(process) if not w["leaving"]]
            if len(staying) == count:
                return staying
            await asyncio.sleep(0.02)


async def replaced(process: ProxyProcess, *gone: int) -> None:
    """Return when none of these is there any more, and all are."""
    async with asyncio.timeout(240):
        while set(gone) & {w["pid"] for w in await workers_of(process)}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await all_up(process)


async def control(process: ProxyProcess, method: str, path: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(process._control_socket))
    async with httpx.AsyncClient(transport=transport, timeout=300, verify=False) as client:
        return await client.request(method, f"http://proxy{path}")


_numbers = itertools.count()


class Counting:
    """An engine script that notes how many requests run at once."""

    def __init__(self, engine_seconds: float = 0.002) -> None:
        self.seconds = engine_seconds
        self.running = 0
        self.most = 0
        self.at = collections.Counter[int]()

    def __call__(self, _: Received) -> list[Step]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.at[self.running] += 1
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


async def test_two_workers_are_one_proxy(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    process = make_process()
    assert await process.ensure_running()
    pids = await all_up(process)
    await process.publish(table(replica(await make_engine())))
    async with clients(process, 8) as client:
        answers = await asyncio.gather(*(complete(client) for _ in range(40)))
    assert {a.status_code for a in answers} == {200}
    connections = [w["connections"] for w in await workers_of(process)]
    stats = await process.stats()
    assert stats["partitiond_proxy_requests_total"] == 40
    assert stats['partitiond_proxy_limit_sequences{model="m",replica="m-1"}'] == 8
    assert stats["partitiond_proxy_routing_version"] == 1
    assert await process.in_flight() == {"m-1": 0}
    assert max(connections) <= 5
    identity = process.identity
    assert identity is not None
    assert identity.pid not in pids
    await process.stop(1)
    assert not is_alive(identity)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # noqa: ASYNC240


async def test_workers_without_a_file_left_lose_no_connection(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    process = make_process()
    assert await process.ensure_running()
    pids = await all_up(process)
    await process.publish(table(replica(await make_engine())))
    soft, hard = resource.prlimit(pids[0], resource.RLIMIT_NOFILE)

    async def connections() -> int:
        return sum(worker["connections"] for worker in await workers_of(process))

    async with asyncio.timeout(240):
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


@timed
async def test_together_they_never_exceed_a_limit_and_leave_no_place_empty(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    busy: dict[int, float] = {}
    for workers in (1, 2):
        script = Counting(0.03)  # so slow that places are short, not requests
        engine = await make_engine(script, f"e{next(_numbers)}")
        process = make_process(workers=workers)
        await process.ensure_running()
        if workers > 1:
            await all_up(process)
        await process.publish(table(replica(engine, max_sequences=5), max_queue=1000))
        outcomes = await load(process, 24, lambda e=engine: len(e.received) > 600)  # type: ignore[misc]
        await process.stop(1)
        assert set(outcomes) == {200}
        assert script.most == 5
        # Noted when one starts: where places are taken at once, each finds four others.
        busy[workers] = sum(n * count for n, count in script.at.items()) / script.at.total()
    with timing():
        assert busy[2] > 0.9 * busy[1], "as busy as one process keeps it, on a machine as busy"


async def test_many_long_streams_split_evenly(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    steps: list[Step] = stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    process = make_process()
    await process.ensure_running()
    await all_up(process)
    await process.publish(table(replica(engine, max_sequences=64)))
    async with clients(process, 64) as client:
        running = [asyncio.create_task(complete(client, stream=True)) for _ in range(64)]
        await engine.until(lambda: len(engine.received) == 64)
        workers = await workers_of(process)
        assert [w["connections"] for w in workers] == [32, 32]
        assert await process.in_flight() == {"m-1": 64}
        go_on.set()
        for done in await asyncio.gather(*running):
            assert done.text.endswith("data: [DONE]\n\n")


async def test_a_killed_worker_is_replaced_and_harms_no_other(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    steps: list[Step] = stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    process = make_process()
    await process.ensure_running()
    pids = await all_up(process)
    await process.publish(table(replica(engine, max_sequences=4)))
    async with clients(process, 16) as client:
        running = [asyncio.create_task(complete(client, stream=True)) for _ in range(4)]
        await engine.until(lambda: len(engine.received) == 4)
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
    async with asyncio.timeout(240):
        while True:
            state = await process.state()
            if state is not None and state["queues"] == {"m": count}:
                return
            await asyncio.sleep(0.01)


async def test_workers_are_replaced_under_load_without_a_failed_request(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine(Counting())
    process = make_process()
    await process.ensure_running()
    before = await all_up(process)
    await process.publish(table(replica(engine), max_queue=1000))
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


async def test_sighup_replaces_the_workers(make_process: MakeProcess) -> None:
    process = make_process()
    await process.ensure_running()
    before = await all_up(process)
    assert process.identity is not None
    os.kill(process.identity.pid, signal.SIGHUP)
    await replaced(process, *before)
    assert len(await all_up(process)) == 2


async def test_route_updates_under_load_reach_all_workers_and_stop_nothing(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    first, second = await make_engine(name="e1"), await make_engine(name="e2")
    process = make_process()
    await process.ensure_running()
    await all_up(process)
    await process.publish(table(replica(first), max_queue=1000))
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


async def test_after_the_parent_was_killed_the_next_one_serves_and_counts_what_still_runs(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    steps: list[Step] = stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    process = make_process(port=free_port())
    await process.ensure_running()
    orphans = await all_up(process)
    await process.publish(table(replica(engine, max_sequences=4)))
    async with clients(process, 8) as client:
        running = [asyncio.create_task(complete(client, stream=True)) for _ in range(4)]
        await engine.until(lambda: len(engine.received) == 4)
        assert process.identity is not None
        os.kill(process.identity.pid, signal.SIGKILL)
        await process.wait_exit()
        started = time.monotonic()
        assert await process.ensure_running()
        new = await all_up(process)
        assert not set(new) & set(orphans)
        took = time.monotonic() - started
        assert in_time(took, 10.0, starts=15), "the orphans are not waited for"
        late = asyncio.create_task(complete(client, stream=True))
        await queued(process, 1)
        assert len(engine.received) == 4, "what the orphans have in flight still counts"
        go_on.set()
        for done in await asyncio.gather(*running, late):
            assert done.text.endswith("data: [DONE]\n\n")
    async with asyncio.timeout(240):
        while any(Path(f"/proc/{pid}").exists() for pid in orphans):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


async def test_workers_whose_parent_is_killed_while_they_start_go_away(
    make_process: MakeProcess,
) -> None:
    process = make_process()
    await process.ensure_running()
    assert process.identity is not None
    pid = process.identity.pid
    started: list[str] = []
    async with asyncio.timeout(240):
        while len(started) < 2:  # they exist, and have not answered yet
            started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()  # noqa: ASYNC240
            await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    await process.wait_exit()
    async with asyncio.timeout(240):
        while any(Path(f"/proc/{worker}").exists() for worker in started):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


async def test_the_queues_bound_is_for_all_workers_together(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: [go_on, *answer(completion())])
    process = make_process()
    await process.ensure_running()
    await all_up(process)
    await process.publish(table(replica(engine, max_sequences=1), max_queue=4))
    async with clients(process, 12) as client:
        sent = [asyncio.create_task(complete(client)) for _ in range(12)]
        await engine.until(lambda: len(engine.received) == 1)
        await queued(process, 4)
        async with asyncio.timeout(240):
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
    steps: list[Step] = stream(text_event("hel"), 0.5, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    process = make_process()
    await process.ensure_running()
    await all_up(process)
    await process.publish(table(replica(engine)))
    async with clients(process, 4) as client:
        running = [asyncio.create_task(complete(client, stream=True)) for _ in range(4)]
        await engine.until(lambda: len(engine.received) == 4)
        await process.stop(10)
        for done in await asyncio.gather(*running):
            assert done.text.endswith("data: [DONE]\n\n")
            assert "error" not in done.text


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
    async with asyncio.timeout(240):
        while children() <= {first, second}:  # noqa: ASYNC110 -- another one starts in its place
            await asyncio.sleep(0)
    os.kill(first, signal.SIGSTOP)  # it does not answer that it is told to end
    ending = asyncio.create_task(process.stop(60))
    async with asyncio.timeout(240):
        while started() < 3 and children() - {first}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    async with asyncio.timeout(50):  # the grace is for requests, and there is none
        await ending


@pytest.mark.full
async def test_a_worker_that_hangs_is_replaced(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    process = make_process()
    await process.ensure_running()
    pids = await all_up(process)
    await process.publish(table(replica(engine)))
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
    process = make_process(log_max_bytes=20_000, log_backups=50)
    await process.ensure_running()
    await all_up(process)
    engine: ScriptedEngine = await make_engine()
    await process.publish(table(replica(engine)))
    await load(process, 8, lambda: len(engine.received) > 600)
    await asyncio.sleep(1.5)
    await load(process, 8, lambda: len(engine.received) > 1200)
    await process.stop(1)
    logs = list((folder / "s" / "log").iterdir())
    assert len(logs) > 1
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    assert sum(line["event"] == "request" for line in lines) == len(engine.received)
