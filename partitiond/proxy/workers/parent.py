"""Runs the parent of several worker processes behind one port.

The parent owns the things that exist once: the port, the port for other hosts' proxies, the state
folder's lock, the pid file, the control socket, the routing table on disk. It hands connections to
workers (`acceptor`), sends them tables, merges their answers (`merged`), and restarts a worker that
died. It never sees a request. When the parent is killed, its workers finish their requests in
flight, and the ports are free at once.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import time
from typing import Any, Final

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, RoutingTable
from partitiond.proxy.config import ProxyArguments
from partitiond.proxy.control import ControlServer
from partitiond.proxy.dispatch.ledger import ROWS
from partitiond.proxy.dispatch.shared import LedgerFile, clear_the_dead, open_as_parent
from partitiond.proxy.dispatch.table_file import TableFile
from partitiond.proxy.keys.budgets_file import BUDGETS_FILE
from partitiond.proxy.keys.last_word import LastWord
from partitiond.proxy.keys.meters import Budgets
from partitiond.proxy.listening.acceptor import Accepting, hand_on
from partitiond.proxy.server import SIGNAL_GRACE_SECONDS, Listeners, listening
from partitiond.proxy.telemetry.logs import LogFile, json_line
from partitiond.proxy.telemetry.metrics import Samples, exposition
from partitiond.proxy.telemetry.traffic import MergedTraffic, leave_behind
from partitiond.proxy.workers.channel import Message
from partitiond.proxy.workers.merge_answers import counters_of, merge_samples, merge_states
from partitiond.proxy.workers.process import (
    START_SECONDS,
    WorkerError,
    WorkerGoneError,
    WorkerProcess,
)
from partitiond.serde import to_jsonable

MAX_WORKERS: Final = ROWS // 4
LAST_SECONDS: Final = 4.0
"""After the grace: time for workers to end the remaining requests, and to exit."""
HOUSEKEEPING_SECONDS: Final = 1.0
"""Pause between two rounds of saving budgets, rotating the log and clearing rows of the dead."""
SHORT_LIFE_SECONDS: Final = 5.0
"""A worker that lived for less time is restarted with a growing back-off, not at once. Chosen."""
MAX_PAUSE_SECONDS: Final = 5.0
"""Longest such pause. Chosen."""

_logger = logging.getLogger("partitiond.proxy")


async def serve_workers(arguments: ProxyArguments, log: LogFile) -> None:
    """Serve until shut down. Raises as `listening`."""
    with listening(arguments, log) as opened:
        workers = Workers(arguments, open_as_parent(arguments.state_dir), log, opened)
        await workers.run()
        leave_behind(arguments.state_dir, await workers.traffic())


class Workers:
    """All workers. Implements `control.Plane`."""

    def __init__(
        self, arguments: ProxyArguments, file: LedgerFile, log: LogFile, opened: Listeners
    ) -> None:
        self._arguments = arguments
        self._file = file
        self._log = log
        self._opened = opened
        self._about = opened.about
        self._count = min(arguments.options.workers, MAX_WORKERS)
        taken = set(clear_the_dead(file))
        free = [row for row in range(ROWS) if row not in taken]
        self._rows = free[: self._count]
        self._workers: list[WorkerProcess] = []
        self._past: Samples = {}
        self._traffic = MergedTraffic()
        self._budgets = Budgets(arguments.state_dir / BUDGETS_FILE, file.ledger)
        self._kept = TableFile(arguments.state_dir)
        self._table = self._kept.load() or EMPTY_ROUTING_TABLE
        self._word = LastWord()
        self._word.learn(self._table.keys_stale_seconds, self._word.at)
        self._changing = asyncio.Lock()
        """Held while a table is sent out or a worker joins, so that it has the current table."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[Accepting] = []
        self._unstarted = set(range(self._count))
        """Workers of the first ones that have neither started nor failed to."""
        self._families: list[int] = []
        self._stop = asyncio.Event()
        self._grace_seconds = SIGNAL_GRACE_SECONDS

    # control.Plane

    @property
    def version(self) -> int:
        """Version of the routing table in force."""
        return self._table.version

    async def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table; returns when every worker has it.

        Raises:
            NotKeptError: the table could not be written. It is in force all the same.
            OSError: as in `TableFile.write`.
            InputError: the table is too large.
        """
        async with self._changing:
            if table.age < self._table.age:
                return False
            news = table != self._table
            if news:
                self._file.ledger.make_room([self._table, table])
                self._table = table
                self._budgets.apply(table.keys)
            self._word.hear(table.keys_stale_seconds)
            message = self._table_message(news=news)
            await asyncio.gather(*(self._tell(worker, message) for worker in self._workers))
            self._kept.write(self._table)
            return True

    async def describe(self) -> dict[str, Any]:
        """Return the answer to GET /state: the sum over the workers."""
        known: dict[str, Any] = {
            "in_flight": {replica.replica_id: 0 for replica in self._table.replicas},
            "queues": {model.name: 0 for model in self._table.models},
            "idle_seconds": {},
        }
        merged = merge_states([known, *await self._ask_all({"do": "state"})])
        used = self._budgets.used()
        for key_id, use in merged.get("keys", {}).items():
            use["budget_used"] = round(used[key_id].tokens) if key_id in used else 0
        return {
            **self._about,
            "version": self._table.version,
            "draining": self._stop.is_set(),
            **merged,
            "workers": [
                {
                    "pid": worker.pid,
                    "connections": worker.handoffs[0].open_connections(),
                }
                for worker in self._workers
            ],
        }

    async def metrics(self) -> bytes:
        """Return Prometheus text: the sum over all workers, including those that ended."""
        await self._ask_all({"do": "metrics"})
        # Of a worker that did not answer, its last counts: else the sum would fall and rise again.
        counted = [worker.counts.get("metrics", {}) for worker in self._workers]
        return exposition(merge_samples([*counted, self._past]))

    async def traffic(self) -> dict[str, Any]:
        """Return the answer to GET /traffic: the sum over all workers, also those that ended."""
        await self._ask_all({"do": "traffic"})
        told = {w.row: w.counts["traffic"] for w in self._workers if "traffic" in w.counts}
        generations = {replica.replica_id: replica.generation for replica in self._table.replicas}
        keys = {key.id for key in self._table.keys}
        sample = self._traffic.sample(told, generations, time.monotonic(), keys)
        if sample["shares_number"]:
            for key_id, use in self._budgets.used().items():
                budget = {"budget_start": use.start, "budget_tokens": use.tokens}
                sample["keys"][key_id] = sample["keys"].get(key_id, {}) | budget
        return sample

    def shut_down(self, grace_seconds: float) -> None:
        """Begin the shutdown; requests in flight get this grace."""
        self._grace_seconds = grace_seconds
        self._stop.set()

    # From start to end

    async def run(self) -> None:
        """Serve until `shut_down`; then stop listening, drain, and end the control socket last."""
        loop = asyncio.get_running_loop()
        for caught in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(caught, self.shut_down, SIGNAL_GRACE_SECONDS)
        listeners = [one for one in (self._opened.clients, self._opened.peers) if one is not None]
        self._families = [int(one.family) for one in listeners]
        self._accepting = [
            Accepting(one, functools.partial(self._hand_on, number))
            for number, one in enumerate(listeners)
        ]
        self._file.ledger.make_room([self._table])
        self._budgets.apply(self._table.keys)
        answering = await ControlServer.start(self, self._opened.control)
        self._log.write(json_line("started", version=self.version, **self._about))
        for number in range(self._count):
            self._begin(self._keep_worker(number))
        self._begin(self._keep_house())
        await self._stop.wait()
        self._log.write(json_line("stopping", grace_seconds=self._grace_seconds))
        for accepting in self._accepting:
            accepting.close()
        await self._stop_workers()
        await answering.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stop_workers(self) -> None:
        self._stop.set()
        message: Message = {"do": "shutdown", "grace_seconds": self._grace_seconds}
        await asyncio.gather(*(self._tell(worker, message) for worker in self._workers))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_seconds + LAST_SECONDS):
                await asyncio.gather(*(worker.ended.wait() for worker in self._workers))
        left = list(self._workers)
        for worker in left:
            worker.kill()
        await asyncio.gather(*(worker.ended.wait() for worker in left))
        self._budgets.save()

    def _begin(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a task of the parent failed", exc_info=task.exception())

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self._budgets.save()
            self._log.rotate_when_large()
            clear_the_dead(self._file, self._rows)  # workers of a killed parent

    # Workers

    def _hand_on(self, listener: int, connection: socket.socket) -> bool:
        # Else who comes at once would go to the worker that is up first, and stay there.
        return not self._unstarted and hand_on(
            [worker.handoffs[listener] for worker in self._workers], connection
        )

    def _free_rows(self) -> list[int]:
        return [row for row in self._rows if not self._file.ledger.owner(row)[0]]

    async def _keep_worker(self, number: int) -> None:
        """Keep one worker running."""
        pause = 0.0
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                worker = await self._start_worker()
            finally:
                self._unstarted.discard(number)
            if worker is not None:
                await worker.ended.wait()
                if self._stop.is_set():
                    return
                _logger.error("worker %d ended with %s", worker.pid, worker.returncode)
            if time.monotonic() - started_at > SHORT_LIFE_SECONDS:
                pause = 0.0
            elif pause or worker is None:
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_SECONDS, 2 * pause or 0.1)
            else:
                pause = 0.1  # the first restart is immediate; the next one waits this long

    async def _start_worker(self) -> WorkerProcess | None:
        """Start a worker, which takes connections on return. None if it did not start."""
        rows = self._free_rows()
        if not rows:
            return None
        # The parent owns the row until the worker exists, so that no other worker starts on it.
        ledger = self._file.ledger
        ledger.open_row(rows[0])
        ledger.set_owner(rows[0], os.getpid(), 0)
        try:
            worker = await WorkerProcess.start(
                rows[0],
                self._count,
                ledger,
                peers=len(self._families) > 1,
            )
        except OSError:
            _logger.exception("a worker cannot be started")
            ledger.clear(rows[0])
            return None
        self._begin(self._reap(worker))
        try:
            await worker.ask({"do": "hello"}, START_SECONDS)
            async with self._changing:
                await worker.ask(self._table_message())
                if self._stop.is_set():  # all others get `shutdown` now, and this one would not
                    worker.kill()
                    return None
                self._workers.append(worker)
            await worker.ask({"do": "serve", "families": self._families})
        except WorkerError:
            _logger.exception("a worker did not start")
            worker.kill()
            return None
        self._log.write(json_line("worker_started", worker=worker.pid, row=worker.row))
        return worker

    async def _reap(self, worker: WorkerProcess) -> None:
        """Wait until the worker has ended; then keep its counters and free what it held."""
        await worker.wait()
        if worker in self._workers:
            self._workers.remove(worker)
        self._past = merge_samples([self._past, counters_of(worker.counts.get("metrics", {}))])
        self._traffic.ended(worker.row, worker.counts.get("traffic"))
        with self._file.locked():
            self._file.ledger.clear(worker.row)
        worker.ended.set()

    async def _tell(self, worker: WorkerProcess, message: Message) -> Message | None:
        """Send a message and return the answer; kill a worker that does not answer."""
        try:
            answer = await worker.ask(message)
        except WorkerGoneError:
            return None  # who waits for its end sees to the rest
        except WorkerError as error:
            if not worker.ended.is_set():
                _logger.error("worker %d is ended: %s", worker.pid, error)
                worker.kill()
            return None
        if message["do"] in {"metrics", "traffic"}:
            worker.counts |= answer
        return answer

    async def _ask_all(self, message: Message) -> list[Message]:
        answers = await asyncio.gather(*(self._tell(w, message) for w in self._workers))
        return [answer for answer in answers if answer is not None]

    def _table_message(self, *, news: bool = True) -> Message:
        table = to_jsonable(self._table) if news else None
        return {"do": "table", "table": table, "word": [self._word.limit_seconds, self._word.at]}
