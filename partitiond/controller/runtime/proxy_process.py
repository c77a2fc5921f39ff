"""Keeps the proxy running for the loop, tells it the routes, and asks what is in flight.

The proxy is a process that may hang, so a pass of the loop waits for a call to it only a moment,
and not at all after a call that took longer: the call goes on in a task of its own, and no other
begins beside it.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.engine_matching import FlightCounts
from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, RoutingTable
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.errors import ConflictError, NotKeptError, PartitiondError, StoreError
from partitiond.core.keys.record import KeyUse
from partitiond.core.keys.stale import word_is_due
from partitiond.core.replica.sleep import Traffic
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock, ProxyControl
from partitiond.ports.host import PROXY_PATIENCE_SECONDS, FleetProxies
from partitiond.store import Store

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.2
"""Pause after the first start that failed; it doubles with each further failure. A proxy that is
killed while it starts is still back within two seconds. Chosen."""
RETRY_SECONDS_MAX: Final = 5.0
"""Longest such pause, for example if another program took the port meanwhile. Chosen."""


class Endpoint:
    """Keeps the proxy alive and its table current.

    Attributes:
        created: whether the process was made here, rather than adopted.
        told: the tables that the proxy may have.
    """

    def __init__(
        self,
        proxy: ProxyControl,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None],
    ) -> None:
        self._proxy = proxy
        self._clock = clock
        self._retry_at = 0.0
        self._told_at = 0.0
        self._behind: frozenset[str] = frozenset()
        self._failures = 0
        self._store = store
        self._journal = journal
        self._wake = wake
        self._exit: asyncio.Task[None] | None = None
        self._version = 0
        self._is_kept = True
        """Whether the proxy could store the table by which it serves."""
        self._published = asyncio.Event()
        self._call: asyncio.Task[None] | None = None
        self._tells_next = False
        self._content = EMPTY_ROUTING_TABLE
        self._slow = False
        """Whether the last call took longer than a pass waits for it."""
        self._trouble = ""
        self._silent = ""
        self.created = False
        self.told = ToldTables()

    async def start(self, *, is_needed: bool) -> None:
        """Adopt or start the proxy.

        Args:
            is_needed: whether nothing goes on without it. Else it is waited for a moment at most,
                and what keeps it from running (as a port that something else took) is told, and it
                is tried again later.

        Raises:
            PartitiondError: it cannot run, and is needed.
        """
        await (self._ensure() if is_needed else self._patiently(self._start_again))

    async def _ensure(self) -> None:
        self.created = await self._proxy.ensure_running()
        reached(FaultPoint.PROXY_STARTED)
        if self.created:
            self._journal.note("proxy-started", "proxy", "the endpoint's process was started.")
        else:
            self._journal.note("proxy-adopted", "proxy", "the endpoint was found running.")
        # The kernel says at once that the process has ended, instead of being asked.
        self._exit = asyncio.create_task(self._note_exit(), name="proxy exit")
        self._exit.add_done_callback(lambda _: self._wake())

    async def _note_exit(self) -> None:
        code = await self._proxy.wait_exit()
        how = "" if code is None else f" with exit code {code}"
        self._journal.note("proxy-ended", "proxy", f"the endpoint's process has ended{how}.")

    @property
    def problem(self) -> str:
        """Why the proxy cannot be used now; empty if it can."""
        return self._trouble or self._proxy.problem

    async def _patiently(self, call: Callable[[], Coroutine[None, None, None]]) -> None:
        """Make a call unless another one is under way, and wait for it a moment at most. A table
        that is to be told then is told next.
        """
        if self._call is not None:
            self._tells_next |= call == self._tell
            return
        self._call = asyncio.create_task(call(), name="call to the proxy")
        self._call.add_done_callback(self._called)
        if not self._slow:
            ended, _ = await asyncio.wait([self._call], timeout=PROXY_PATIENCE_SECONDS)
            self._slow = not ended

    def _called(self, call: "asyncio.Task[None]") -> None:
        self._call = None
        if call.cancelled():
            return
        error = call.exception()
        if error is not None:
            log.error("a call to the proxy broke", exc_info=error)
            self._troubled(f"{type(error).__name__}: {error}")
        if self._slow:
            self._slow = bool(self._proxy.problem)
            self._wake()
        if self._tells_next:
            self._tells_next = False
            self._call = asyncio.create_task(self._tell(), name="call to the proxy")
            self._call.add_done_callback(self._called)

    async def keep_running(self) -> None:
        """Start the proxy again if it is gone; a new process has to be told the routes."""
        if self._proxy.problem and not self._silent:
            self._journal.note("proxy-unreachable", "proxy", self._proxy.problem)
        self._silent = self._proxy.problem
        if self._exit is not None and not self._exit.done():
            return
        self.told = ToldTables()
        if self._clock.monotonic() >= self._retry_at:
            await self._patiently(self._start_again)

    async def _start_again(self) -> None:
        try:
            await self._ensure()
        except PartitiondError as error:
            pause = min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2**self._failures)
            self._failures = min(self._failures + 1, 16)
            self._retry_at = self._clock.monotonic() + pause
            self._troubled(str(error))
        else:
            self._failures = 0

    async def await_start(self, seconds: float) -> None:
        """Wait so long for a start that `start` did not wait for."""
        if self._call is not None:
            await asyncio.wait([self._call], timeout=seconds)

    async def publish(self, content: RoutingTable) -> None:
        """Hand over the table if it says something new, or as a word that its keys are the newest.

        Args:
            content: without a version yet.
        """
        self._note_hosts()
        self._content = content
        if self._is_due(content):
            await self._patiently(self._tell)

    def _is_due(self, content: RoutingTable) -> bool:
        table = self.told.confirmed
        if table is None or not self._is_kept or not _same_content(table, content):
            return True
        return word_is_due(table.keys_stale_seconds, self._clock.monotonic() - self._told_at)

    async def _tell(self) -> None:
        """Hand over the newest table; the same one again is a word."""
        table = self.told.confirmed
        if table is None or not _same_content(table, self._content):
            # If the store was lost, its counter starts again below what the proxy has seen.
            self._version = max(self._counted(), self._version + 1)
            table = dataclasses.replace(self._content, version=self._version)
            reached(FaultPoint.TABLE_NUMBERED)
        self.told = self.told.sent(table)
        try:
            await self._proxy.publish(table)
        except NotKeptError as error:
            self._is_kept = False
            self._took(table)
            self._troubled(str(error))
        except ConflictError as error:
            newer = error.facts.get("current")
            self._version = newer if isinstance(newer, int) else self._version
            self.told = ToldTables()
            self._troubled(str(error))
            self._wake()
        except PartitiondError as error:
            self._troubled(str(error))
        else:
            self._is_kept, self._trouble = True, ""
            self._took(table)

    def _took(self, table: RoutingTable) -> None:
        self.told = self.told.answered(table)
        self._told_at = self._clock.monotonic()
        reached(FaultPoint.TABLE_PUBLISHED)
        self._published.set()
        self._published = asyncio.Event()

    def _counted(self) -> int:
        """Return the store's next number; 0 if it refuses, as routes must be withdrawn even then.

        If the next number is too low, the proxy says which number it has seen.
        """
        try:
            return self._store.next_counter("routing-version")
        except StoreError as error:
            log.warning("the routing table is numbered without the store: %s", error)
            return 0

    async def await_table(self, holds: Callable[[RoutingTable], bool], seconds: float) -> bool:
        """Wait until `holds` is true for whichever table the proxy has; False after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.told.all_hold(holds):
                    await self._published.wait()
                return True
        return False

    def may_take(self, key_id: str) -> bool:
        """Whether a proxy may take a key: not all tables that it may have lack the key."""

        def lacks(table: RoutingTable) -> bool:
            return all(key.id != key_id for key in table.keys)

        return not self.told.all_hold(lacks) or bool(self.unconfirmed(lacks))

    def unconfirmed(self, holds: Callable[[RoutingTable], bool]) -> Mapping[str, str]:
        """Return hosts whose proxy may have a table for which `holds` is false, and why.

        Empty with one host: `await_table` speaks for its proxy.
        """
        if not isinstance(self._proxy, FleetProxies):
            return {}
        answers: dict[int, bool] = {}  # most hosts have the same table, of a thousand keys perhaps

        def holds_once(table: RoutingTable) -> bool:
            if id(table) not in answers:
                answers[id(table)] = holds(table)
            return answers[id(table)]

        return {
            host: one.problem or "it has not taken the new table yet."
            for host, one in self._proxy.known_tables().items()
            if not one.told.all_hold(holds_once)
        }

    def _note_hosts(self) -> None:
        """Note hosts whose proxy may lack the newest table, and those that have it again."""
        if not isinstance(self._proxy, FleetProxies):
            return
        told = self._proxy.known_tables()
        behind = {host: one.problem for host, one in told.items() if one.problem}
        for host in sorted(behind.keys() - self._behind):
            self._journal.note(
                "proxy-behind",
                host,
                f"its endpoint may lack the newest routes and keys: {behind[host]}",
            )
        for host in sorted((self._behind - behind.keys()) & told.keys()):
            self._journal.note(
                "proxy-confirmed", host, "its endpoint has the newest routes and keys again."
            )
        self._behind = frozenset(behind)

    async def in_flight(self, hosts: Iterable[str]) -> FlightCounts:
        """Requests in flight by engine name on each of these hosts; None of a host whose proxy
        cannot say, or not at once.
        """
        told: dict[str, Mapping[str, int] | None] = dict.fromkeys(hosts)

        async def ask(host: str) -> None:
            told[host] = await self._proxy.in_flight(host)

        async def ask_all() -> None:
            await asyncio.gather(*(ask(host) for host in told))

        if told:
            await self._patiently(ask_all)
        return dict(told)

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Waiting requests and idle time by model; None if the proxy cannot say."""
        return await self._proxy.traffic()

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        """How much of each key is used; None if the proxy cannot say."""
        return await self._proxy.key_use()

    async def metrics_text(self) -> str:
        """The proxy's Prometheus text; empty if the proxy cannot say."""
        try:
            return await self._proxy.metrics_text()
        except PartitiondError:
            return ""

    async def stop(self, grace_seconds: float) -> None:
        """End the proxy. Raises PartitiondError: it outlives SIGKILL."""
        await self.detach()
        await self._proxy.stop(grace_seconds)

    async def detach(self) -> None:
        """Stop watching; the process stays."""
        tasks = [task for task in (self._exit, self._call) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def routed(self) -> frozenset[str] | None:
        """Return the generations of the engines that may get new requests, as the proxy confirmed;
        None while it may have another table.
        """
        table = self.told.confirmed
        if table is None:
            return None
        return frozenset(route.generation for route in table.replicas if not route.draining)

    def _troubled(self, problem: str) -> None:
        if problem != self._trouble:
            self._journal.note("proxy-unreachable", "proxy", problem)
        self._trouble = problem


def _same_content(one: RoutingTable, other: RoutingTable) -> bool:
    return dataclasses.replace(one, version=0) == dataclasses.replace(other, version=0)
