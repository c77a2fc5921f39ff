"""The ledger of several workers is right in random histories of real queues on shared memory.

Time is virtual, and every worker is a `LiveModel`; the processes, the file and the lock are absent.
"""

import asyncio
import collections
import dataclasses
import heapq
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import KV_SHARE, Cost, Rejected, RequestOwner
from partitiond.core.dispatch.pace import FORGET_SECONDS
from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    HostShares,
    KeyRates,
    KeyRoute,
    KeyShare,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.core.errors import InputError
from partitiond.core.keys.rates_and_budgets import Usage
from partitiond.core.keys.wall_clock import STEADY_SECONDS
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.ledger import (
    KEYS,
    MODELS,
    REPLICAS,
    ROWS,
    SlotLedger,
    key_hash,
    model_hash,
    replica_hash,
)
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.live_requests import AnyReplica, LiveRequest
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.dispatch.shared import LEDGER_FILE, LedgerAccess, LedgerFile, open_as_parent
from partitiond.proxy.dispatch.worker_queue import ANSWER_SECONDS, HOLD_SECONDS, WorkerQueue
from partitiond.proxy.keys.accounts import Accounts, Receipt
from partitiond.proxy.keys.meters import Budgets, SiblingMeters
from tests.proxy.conftest import begun
from tests.proxy.virtual import VirtualLoop

TICK = 0.010
"""The promise: a place is left empty for no longer while somebody wants it."""


async def pass_time(seconds: float) -> None:
    """Let virtual time pass, with all that happens meanwhile."""
    await asyncio.sleep(seconds)


class MemoryFile(LedgerFile):
    """A ledger without a file: one process needs no lock."""

    def __init__(self) -> None:
        self.ledger = SlotLedger(memoryview(bytearray(SlotLedger.size_bytes())))
        self.depth = 0
        self.acquire = self._acquire  # type: ignore[assignment]
        self.release = self._release  # type: ignore[assignment]

    def _acquire(self) -> None:
        assert self.depth == 0, "taken twice"
        self.depth = 1

    def _release(self) -> None:
        self.depth = 0


class Request:
    """The owner of a request."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.live: Any = None
        self.at: AnyReplica | None = None
        self.answer: Rejected | None = None
        self.on_placed: Callable[[Request], object] = lambda _: None

    def placed(self, replica: AnyReplica) -> None:
        self.at = replica
        self.on_placed(self)

    def refused(self, rejected: Rejected) -> None:
        self.answer = rejected


class Worker:
    def __init__(self, host: "Host", row: int) -> None:
        host.file.ledger.open_row(row)
        self.model = LiveModel(host.table.models[0], LedgerAccess(host.file, row))
        self.model.apply(host.table.models[0], host.table.replicas, ProxyOptions())
        self.requests: list[Request] = []

    def running(self) -> list[Request]:
        return [r for r in self.requests if r.live.replica is not None]

    def waiting(self) -> list[Request]:
        return [r for r in self.requests if r.live.entry is not None]


class Host:
    """All workers, and what is true of them together."""

    def __init__(self, workers: int, limits: Sequence[int], kv: int = 0, **model: Any) -> None:
        values = {"max_queue": 1000, "max_wait_seconds": 1e6, **model}
        self.table = RoutingTable(
            1,
            (ModelRoute("m", ModelAvailability.SERVING, "m", **values),),
            tuple(
                ReplicaRoute(
                    f"m-{i}", "m", f"/none/{i}", "1", limit, kv, 4096, service_seconds=1e-6
                )
                for i, limit in enumerate(limits)
            ),
        )
        self.file = MemoryFile()
        self.file.ledger.make_room([self.table])
        self.workers: dict[int, Worker] = {}
        for row in range(workers):
            self.workers[row] = Worker(self, row)
        self.names = 0

    def arrive(
        self,
        row: int,
        cost: Cost,
        key: str = "",
        priority: int = 0,
        *,
        stream: bool = False,
        on_placed: Callable[[Request], object] = lambda _: None,
    ) -> Request:
        loop = asyncio.get_running_loop()
        request = Request(self.names)
        request.on_placed = on_placed
        owner: Any = request
        self.names += 1
        request.live = LiveRequest(owner, str(request.name), cost, loop.time())
        request.live.share = RequestOwner(key, 1.0, priority)
        request.live.stream = stream
        worker = self.workers[row]
        worker.requests.append(request)
        placed = worker.model.place(request.live)
        if isinstance(placed, LiveReplica):
            request.placed(placed)
        elif isinstance(placed, Rejected):
            request.refused(placed)
        return request

    def end(self, request: Request) -> None:
        for worker in self.workers.values():
            if request in worker.requests:
                worker.requests.remove(request)
                worker.model.stop_waiting(request.live)
                request.live.leave()

    def crash(self, row: int) -> None:
        """The process is gone with all it knew; the parent clears its row and starts another."""
        dead = self.workers[row]
        for request in dead.requests:
            if request.live.timer is not None:
                request.live.timer.cancel()
        dead.model.slots.queue = type(dead.model.slots.queue)()  # its timers find nobody
        self.workers[row] = Worker(self, row)

    def everyone(self) -> list[Request]:
        return [request for worker in self.workers.values() for request in worker.requests]

    def check(self) -> None:
        """What is always true."""
        for replica in self.table.replicas:
            live_requests = [
                r.live
                for r in self.everyone()
                if r.live.replica is not None and r.live.replica.replica_id == replica.replica_id
            ]
            sequences = sum(f.takes.sequences for f in live_requests)
            tokens = sum(f.takes.kv_tokens for f in live_requests)
            column = self.file.ledger.replicas.find(replica_hash(replica))
            assert self.file.ledger.in_flight(column) == (sequences, tokens)
            # One of a batch takes the slots that others leave.
            small = [f.takes for f in live_requests if f.takes.sequences < replica.max_sequences]
            assert len(live_requests) - len(small) <= 1
            if len(small) > 1:
                tokens = sum(one.kv_tokens for one in small)
                assert sum(one.sequences for one in small) <= replica.max_sequences
                assert not replica.kv_cache_tokens or tokens <= KV_SHARE * replica.kv_cache_tokens

    def free(self) -> int:
        return sum(
            max(0, r.max_sequences - self.file.ledger.in_flight(self.column(r))[0])
            for r in self.table.replicas
        )

    def column(self, replica: ReplicaRoute) -> int:
        return self.file.ledger.replicas.find(replica_hash(replica))


steps = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "arrive", "end", "end", "leave", "wait", "crash"]),
        st.integers(0, 3),
        st.integers(0, 1000),
    ),
    max_size=120,
)


async def act(host: Host, step: tuple[str, int, int], cost: Callable[[int], Cost]) -> None:
    word, who, number = step
    row = who % len(host.workers)
    worker = host.workers[row]
    match word:
        case "arrive":
            host.arrive(row, cost(number))
        case "end" if worker.running():
            host.end(worker.running()[number % len(worker.running())])
        case "leave" if worker.waiting():
            host.end(worker.waiting()[number % len(worker.waiting())])
        case "wait":
            await pass_time(number / 1e5)
        case "crash" if number % 5 == 0:
            host.crash(row)


async def finish(host: Host) -> None:
    """Everything that runs ends, until nobody is there; nobody waits for ever."""
    for _ in range(2000):
        host.check()
        running = [r for r in host.everyone() if r.live.replica is not None]
        for request in running:
            host.end(request)
            host.check()
        await pass_time(TICK)
        if not [r for r in host.everyone() if r.answer is None]:
            break
    left = [r for r in host.everyone() if r.answer is None]
    assert not left, "somebody waited for ever"
    ledger = host.file.ledger
    for plane in (ledger.sequences, ledger.kv_tokens, ledger.holds, ledger.unread):
        assert not any(ledger.ints[plane : plane + REPLICAS * ROWS]), "something was left over"
    for plane in (ledger.waiting, ledger.waiting_sequences, ledger.wants):
        assert not any(ledger.ints[plane : plane + MODELS * ROWS])


@settings(max_examples=100)
@given(steps, st.integers(2, 4), st.lists(st.integers(1, 8), min_size=1, max_size=3), st.booleans())
def test_whatever_happens_limits_hold_and_no_place_stays_empty_while_somebody_waits(
    history: list[tuple[str, int, int]], workers: int, limits: list[int], sizes: bool
) -> None:
    """With requests of all sizes nobody waits for ever; alike, nobody beside an empty place."""

    def cost(number: int) -> Cost:
        return Cost(1 + number % 5, 1 + number % 97) if sizes else Cost(1, 10)

    async def story() -> None:
        host = Host(workers, limits, kv=100 if sizes else 0)
        for step in history:
            await act(host, step, cost)
            host.check()
        await pass_time(TICK)
        waiting = sum(len(worker.waiting()) for worker in host.workers.values())
        assert sizes or not (waiting and host.free()), "a place is empty although somebody waits"
        await finish(host)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())


async def test_workers_take_turns_and_who_has_less_goes_first() -> None:
    host = Host(3, [1])
    running = host.arrive(0, Cost(1, 1))
    for row in (0, 0, 0, 1, 2, 2):
        host.arrive(row, Cost(1, 1), priority=row)
    order = []
    for _ in range(6):
        host.end(running)
        await pass_time(TICK)
        ((row, running),) = [(n, r) for n, w in host.workers.items() for r in w.running()]
        order.append(row)
    assert order == [1, 2, 0, 2, 0, 0]
    host = Host(2, [4])
    flood = [host.arrive(0, Cost(1, 1)) for _ in range(9)]
    modest = [host.arrive(1, Cost(1, 1)) for _ in range(3)]
    for request in flood[:2]:
        host.end(request)
        await pass_time(TICK)
    assert [request.at is not None for request in modest] == [True, True, False]
    host.end(flood[2])
    assert sum(request.at is not None for request in flood) == 5, "it has less now"
    await pass_time(TICK)
    assert [request.at is not None for request in modest] == [True, True, False]


async def test_a_newcomer_does_not_overtake_who_waits_elsewhere() -> None:
    host = Host(2, [1])
    running = host.arrive(0, Cost(1, 1))
    waits = host.arrive(1, Cost(1, 1))
    host.end(running)
    late = host.arrive(0, Cost(1, 1))  # before the other worker has heard of the place
    assert late.at is None
    await pass_time(TICK)
    assert waits.at is not None
    assert late.at is None


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_worker_that_is_stopped_costs_no_place_for_long(limit: int) -> None:
    host = Host(1, [limit])
    ledger = host.file.ledger
    ledger.open_row(1)
    running = [host.arrive(0, Cost(1, 1)) for _ in range(limit)]
    # A worker that says that a request waits there, and never looks.
    WorkerQueue(ledger, 1, ledger.models.find(model_hash("m"))).waits(1, 1, wants=True)
    waiting = [host.arrive(0, Cost(1, 1)) for _ in range(limit)]
    for request in running:
        host.end(request)
    await pass_time(TICK)
    assert sum(r.at is not None for r in waiting) == limit - 1, "one place is left to it"
    await pass_time(ANSWER_SECONDS + TICK)
    assert all(r.at is not None for r in waiting)


async def test_who_can_use_no_slot_keeps_none_from_others() -> None:
    host = Host(2, [4], kv=100)
    host.arrive(0, Cost(1, 60))
    large = host.arrive(1, Cost(1, 60))
    await pass_time(TICK)
    small = [host.arrive(0, Cost(1, 1)) for _ in range(3)]
    await pass_time(TICK)
    assert large.at is None
    assert all(request.at is not None for request in small)


async def test_a_large_request_is_not_overtaken_for_ever_by_small_ones_elsewhere() -> None:
    host = Host(2, [4])
    small = [host.arrive(0, Cost(1, 1)) for _ in range(4)]
    large = host.arrive(1, Cost(3, 1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends = [(began + 0.01 * i, i, r) for i, r in enumerate(small, 1)]
    while loop.time() < began + 4 * HOLD_SECONDS and large.at is None:
        at, number, request = heapq.heappop(ends)
        await pass_time(max(0.0, at - loop.time()))
        if request.live.replica is None:  # it still waits; look again later
            heapq.heappush(ends, (at + 0.02, number, request))
        else:
            host.end(request)
            heapq.heappush(ends, (loop.time() + 0.04, host.names + 100, host.arrive(0, Cost(1, 1))))
        host.check()
    assert large.at is not None
    assert loop.time() < began + 2 * HOLD_SECONDS


TTFT, TPOT = 2.0, 0.1


@pytest.mark.parametrize("workers", [1, 4])
async def test_those_who_start_get_their_first_token_in_time_whatever_worker_they_are_at(
    workers: int,
) -> None:
    """The engine reads one prompt after the other, ten a second, and is asked for fifteen."""
    host = Host(workers, [16], max_wait_seconds=1.5, ttft_seconds=TTFT, tpot_seconds=TPOT)
    loop = asyncio.get_running_loop()
    reads_until, firsts = loop.time(), list[float]()
    began = loop.time()

    def takes(request: Request) -> None:
        nonlocal reads_until
        reads_until = max(reads_until, loop.time()) + 0.1
        loop.call_at(reads_until, first, request)

    def first(request: Request) -> None:
        if loop.time() > began + 10.0:
            firsts.append(loop.time() - request.live.started_at)
        request.live.replica.first_token(request.live, loop.time())
        loop.call_later(0.05, host.end, request)

    prompt = Cost(1, 1, prompt_tokens=1000)
    for number in range(15 * 30):
        host.arrive(number % workers, prompt, stream=True, on_placed=takes)
        await pass_time(1 / 15)
    assert len(firsts) > 0.9 * 10 * 20, "the engine is hardly ever without work"
    assert sum(seconds <= TTFT for seconds in firsts) >= 0.95 * len(firsts)


async def test_workers_keep_to_the_least_limit_and_share_it() -> None:
    """Steps take 20 ms for each sequence: 4 meet the bound. One worker sees no stream at all."""
    host = Host(4, [16], ttft_seconds=TTFT, tpot_seconds=TPOT)
    (replica,) = host.table.replicas
    seen, started = list[int](), collections.Counter[int]()

    def ask(row: int) -> None:
        def placed(_: Request) -> None:
            started[row] += second > 10.0

        host.arrive(row, Cost(1, 1, prompt_tokens=1), stream=row > 0, on_placed=placed)

    second = 0.0
    for row in range(4):
        for _ in range(20):
            ask(row)
    for tick in range(160):
        second = tick / 4
        await pass_time(0.25)
        running = host.file.ledger.in_flight(host.column(replica))[0]
        seen.append(running)
        for row, worker in host.workers.items():
            for number, request in enumerate(worker.running()):
                live, at, now = request.live, request.live.replica, time.monotonic()
                if live.stream and not tick % 7:
                    at.first_token(live, now)
                if live.stream:
                    at.decoded(live, 0.25, 0.25 / (0.02 * running), now)
                if (tick + number) % 8 == 0:
                    host.end(request)
                    ask(row)
    assert all(2 <= count <= 6 for count in seen[40:]), seen
    assert min(started[row] for row in range(4)) > 0.4 * max(started.values()), started
    host.crash(1)
    assert host.workers[2].model.replicas["m-0"].max_sequences < 16
    for request in host.everyone():
        host.end(request)
    await pass_time(FORGET_SECONDS + 1)
    assert all(host.arrive(0, Cost(1, 1)).at is not None for _ in range(16)), "it is forgotten"


async def test_the_queues_bound_counts_all_workers() -> None:
    host = Host(3, [1], max_queue=4)
    host.arrive(0, Cost(1, 1))
    sent = [host.arrive(number % 3, Cost(1, 1)) for number in range(9)]
    assert sum(r.live.entry is not None for r in sent) == 4
    refused = [r.answer for r in sent if r.answer is not None]
    assert {answer.code for answer in refused} == {"queue_full"}
    assert all("4 requests wait" in answer.message for answer in refused), "in all workers"


RATES = KeyRates(token_budget=100, budget_period=BudgetPeriod.HOUR)


def table(*generations: str) -> RoutingTable:
    model = ModelRoute("m", ModelAvailability.SERVING, "m")
    replicas = tuple(ReplicaRoute(g, "m", "/none", g, 1, 0, 1) for g in generations)
    return RoutingTable(1, (model,), replicas, (KeyRoute("k", "0" * 64, rates=RATES),))


def ledger_of(*tables: RoutingTable, rows: int = 2) -> SlotLedger:
    ledger = SlotLedger(memoryview(bytearray(SlotLedger.size_bytes())))
    ledger.make_room(tables)
    for row in range(rows):
        ledger.open_row(row)
    return ledger


def test_a_column_is_not_reused_while_a_request_is_counted_there() -> None:
    old, new = table("a"), table("b")
    ledger = ledger_of(old)
    queue = WorkerQueue(ledger, 0, ledger.models.find(model_hash("m")))
    column = ledger.replicas.find(replica_hash(old.replicas[0]))
    queue.started(column, Cost(1, 5))
    ledger.make_room([old, new])
    ledger.make_room([new, table("c")])
    assert ledger.replicas.find(replica_hash(old.replicas[0])) == column
    queue.ended(column, Cost(1, 5))
    ledger.make_room([new, table("c")])
    assert ledger.replicas.find(replica_hash(old.replicas[0])) == -1
    assert ledger.replicas.find(replica_hash(new.replicas[0])) >= 0
    with pytest.raises(InputError) as raised:
        ledger.make_room([table(*map(str, range(REPLICAS + 1)))])
    assert "workers" in raised.value.hint


def test_more_keys_than_columns_do_not_stop_the_table(tmp_path: Path) -> None:
    """Those left over are held to their rates by each worker for itself; a kept budget stays."""
    keys = tuple(KeyRoute(f"k{n}", f"{n:064x}", rates=RATES) for n in range(KEYS + 1))
    ledger = ledger_of(dataclasses.replace(table("a"), keys=keys))
    held = set(ledger.keys.directory)
    (without,) = [key.id for key in keys if key_hash(key.id) not in held]
    assert SiblingMeters(ledger, 0).others(without, math.inf) == Usage()
    path = tmp_path / "budgets.json"
    path.write_text(json.dumps({without: {"period": "day", "start": 86400.0, "tokens": 7}}))
    budgets = Budgets(path, ledger)
    budgets.apply(keys)
    budgets.save()
    assert without in path.read_text()


def test_what_workers_count_of_a_key_is_there_for_the_others_and_outlives_them(
    tmp_path: Path,
) -> None:
    """And the parent."""

    def parent() -> tuple[SlotLedger, Budgets]:
        ledger = ledger_of(table("a"))
        budgets = Budgets(tmp_path / "budgets.json", ledger)
        budgets.apply(table("a").keys)
        return ledger, budgets

    ledger, budgets = parent()
    first, second = SiblingMeters(ledger, 0), SiblingMeters(ledger, 1)
    used = Usage(3, 40.0, 2, 3600.0, 40.0)
    first.publish("k", used)
    assert second.others("k", math.inf) == used
    ledger.clear(0)
    assert second.others("k", math.inf) == dataclasses.replace(used, in_flight=0), "used is used"
    meter = ledger.keys.find(key_hash("k"))
    assert ledger.usage_of_others(-1, meter).tokens == 40.0
    second.publish("k", Usage(1, 10, 0, 3600.0, 10.0))
    assert budgets.used()["k"].tokens == 50.0
    budgets.save()
    assert parent()[1].used()["k"].tokens == 50.0


def workers_of(
    ledger: SlotLedger, rates: KeyRates, shares: HostShares, rows: int = 2
) -> list[Accounts]:
    found = []
    for row in range(rows):
        accounts, meters = Accounts(None), SiblingMeters(ledger, row)
        accounts.others, accounts.publish = meters.others, meters.publish
        accounts.apply([KeyRoute("k", "0" * 64, rates=rates)], shares)
        found.append(accounts)
    return found


def test_workers_tell_of_a_key_from_its_table_on_and_at_each_end() -> None:
    ledger = ledger_of(table("a"))
    first, second = workers_of(ledger, KeyRates(tokens_per_minute=100), HostShares())
    runs = begun(first, "k", 80.0)
    assert isinstance(runs, Receipt)
    assert isinstance(begun(second, "k", 30.0), Rejected)
    assert second.for_the_head()["k"]["refused"] == 1, "though it used nothing"
    first.settle(runs, 60.0)
    total = ledger.usage_of_others(-1, ledger.keys.find(key_hash("k")))
    assert (total.tokens, total.in_flight) == (60.0, 0)
    later = workers_of(ledger, KeyRates(tokens_per_minute=100), HostShares())[1]
    assert isinstance(begun(later, "k", 100.0), Receipt), "its full bucket owes nothing"


def test_workers_of_a_host_use_its_share_together() -> None:
    ledger = ledger_of(table("a"))
    rates = KeyRates(max_in_flight=9, token_budget=100, budget_period=BudgetPeriod.NEVER)
    share = KeyShare("k", 0.5, 0.5, 3, 0.0, 50.0)
    workers = workers_of(ledger, rates, HostShares(1, 0.25, (share,)))
    admitted = [begun(workers[n % 2], "k", 10.0) for n in range(8)]
    assert sum(isinstance(one, Receipt) for one in admitted) == 3
    for number, one in enumerate(admitted):
        if isinstance(one, Receipt):
            workers[number % 2].settle(one, 10.0)
    more = [begun(workers[n % 2], "k", 10.0) for n in range(8)]
    assert sum(isinstance(one, Receipt) for one in more) == 2, "of the budget"
    counts = [one.for_the_head()["k"] for one in workers]
    assert sum(count["refused"] for count in counts) == 16 - 5


async def test_a_worker_that_ended_in_a_wrong_period_hides_nothing_that_others_use(
    tmp_path: Path,
) -> None:
    ledger, clock = ledger_of(table("a"), rows=4), asyncio.get_running_loop()
    assert isinstance(clock, VirtualLoop)
    rates = KeyRates(token_budget=100)
    budgets = Budgets(tmp_path / "budgets.json", ledger)
    budgets.apply((KeyRoute("k", "0" * 64, rates=rates),))
    first, second, third, lives = workers_of(ledger, rates, HostShares(), rows=4)
    clock.set_ahead(365 * 86_400.0)
    assert isinstance(begun(first, "k", 50.0), Receipt)
    assert isinstance(begun(lives, "k", 40.0), Receipt)
    assert budgets.used()["k"].tokens == 90.0
    ledger.clear(0)
    clock.set_ahead(0.0)
    assert isinstance(begun(second, "k", 40.0), Rejected)
    assert budgets.used()["k"].tokens == 90.0
    assert isinstance(begun(third, "k", 40.0), Rejected)
    await pass_time(STEADY_SECONDS)
    assert isinstance(begun(second, "k", 40.0), Receipt)
    assert isinstance(begun(third, "k", 70.0), Rejected)
    assert budgets.used()["k"].tokens == 40.0
    ledger.clear(1)
    assert isinstance(begun(third, "k", 70.0), Rejected), "what has ended counts as well"


# The ledger's file has all of its room before anything writes to the mapped pages


def test_a_disk_that_fills_up_later_takes_no_page_from_it(tmp_path: Path) -> None:
    """A hole in a mapped file that finds no room on the disk would be a SIGBUS."""
    found = open_as_parent(tmp_path)
    told = (tmp_path / LEDGER_FILE).stat()
    assert told.st_size == SlotLedger.size_bytes()
    assert told.st_blocks * 512 >= told.st_size
    assert found.ledger.is_valid()


def test_a_ledger_with_holes_of_before_is_filled(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    path.touch(mode=0o600)
    os.truncate(path, SlotLedger.size_bytes())
    open_as_parent(tmp_path)
    assert path.stat().st_blocks * 512 >= SlotLedger.size_bytes()


def test_a_full_disk_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            open_as_parent(tmp_path)
    assert open_as_parent(tmp_path).ledger.is_valid(), "once there is room it starts"
