"""Answers the messages of a control plane by the agent of this host."""

import asyncio
import contextlib
import inspect
import logging
import uuid
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from partitiond import __version__
from partitiond.core.errors import ConflictError, InputError, PartitiondError, SilentError
from partitiond.core.replica.engine import EngineHandle
from partitiond.hosts.calls.fencing import (
    HeadSession,
    Obedience,
    another_host,
    fenced,
    obedience,
)
from partitiond.hosts.calls.messages import (
    AgentAnswer,
    Awaited,
    Message,
    read_message,
    record_of,
    write,
)
from partitiond.hosts.calls.obeyed import ObeyedHead
from partitiond.hosts.calls.session import HeadCalls, Tell
from partitiond.hosts.calls.signatures import METHODS, HostLook
from partitiond.ports.host import DeviceProvider, PartialDevices
from partitiond.ports.host_agent import HostAgent
from partitiond.serde import to_jsonable

log = logging.getLogger(__name__)
T = TypeVar("T")

BEGIN_SECONDS: Final = 1.0
"""How long a begin waits for the call's result. Chosen: most calls end in it, and a message that is
carried for so long is far from any deadline."""
WAIT_SECONDS: Final = 30.0
"""The longest that a message may wait for news, whatever it asks for: below its deadline."""


class HostServer:
    """Answers messages by the agent of this host.

    It obeys one head at a time (`fencing`). Before a new head's first call, or the first call of a
    new start of its daemon, is begun, all calls of the former are cancelled and have ended. What an
    `engines.start` that was cut short has left is undone by it, or found by `engines.find`.
    Questions are not waited for.

    Args:
        record: the file that keeps which head is obeyed, in the host's state folder; None keeps it
            in memory only, for tests.
        begin_seconds: how long a begin waits for the call's result.
    """

    def __init__(
        self, agent: HostAgent, record: Path | None = None, *, begin_seconds: float = BEGIN_SECONDS
    ) -> None:
        self._agent = agent
        self._host_id = agent.facts().host_id
        self._obeyed = ObeyedHead(record)
        self._begin_seconds = begin_seconds
        self._start = uuid.uuid4().hex
        self._closed = False
        self._calls = HeadCalls()
        self._ending: set[asyncio.Task[Any]] = set()
        """Of calls of former heads."""
        self._looking: asyncio.Task[HostLook] | None = None
        self._finding: asyncio.Task[object] | None = None
        """Looks for the engine, of whose version the next look at the host tells."""
        self._handles: dict[str, EngineHandle] = {}

    async def answer(self, body: bytes) -> bytes:
        """Return the answer to a message; errors are answers, too."""
        try:
            message = read_message(body)
            self._admit(message)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            return self._write(refused=record_of(error))
        calls = self._calls
        try:
            found = await self._do(message, calls)
        except Exception as error:  # noqa: BLE001 - as above
            found = {"error": record_of(error)}
        if self._closed:
            return self._write(restarted=True)
        if self._calls is not calls:  # overtaken meanwhile: it is not told any more
            return self._write(refused=record_of(self._overtaken(message.head)))
        return self._write(**found)

    async def close(self) -> None:
        """Cancel all calls and wait for their ends: the agent ends. Engines go on."""
        self._closed = True
        self._start = uuid.uuid4().hex  # a begin that comes meanwhile begins nothing
        self._end_calls()
        await self._former_ended()

    def _write(self, **found: Any) -> bytes:
        who = AgentAnswer(agent=self._start, host_id=self._host_id, release=__version__, **found)
        return write(who)

    # -- whom it obeys ---------------------------------------------------------------------

    def _admit(self, message: Message) -> None:
        """Obey, or raise why not. Nothing else runs meanwhile: the loop waits for the disk, once
        for each head and epoch.
        """
        if message.host and message.host != self._agent.name:
            raise ConflictError(
                f"{self._agent.name} answers in the place of the host {message.host}.",
                hint="Have it join under its own name.",
                facts={"host": message.host, "answers": self._agent.name},
            )
        if message.host_id and message.host_id != self._host_id:
            raise another_host(message.host, message.host_id, self._host_id)
        obeyed, asks = self._obeyed.load(), message.head
        how = obedience(obeyed, asks)
        if how is Obedience.REFUSE:
            raise self._overtaken(asks)
        if how is Obedience.ADOPT:
            self._obeyed.save(asks)
            log.info("this host obeys the head %s, epoch %d", asks.id, asks.epoch)
            self._end_calls()

    def _overtaken(self, asks: HeadSession) -> PartitiondError:
        obeyed = self._obeyed.load()
        return fenced(self._agent.name, obeyed or asks, asks)

    def _end_calls(self) -> None:
        self._ending = {task for task in self._ending | self._calls.end() if not task.done()}
        self._calls = HeadCalls()

    async def _former_ended(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending)

    # -- what it does ----------------------------------------------------------------------

    async def _do(self, message: Message, calls: HeadCalls) -> dict[str, Any]:
        if message.awaited is not None:
            calls.note(message.awaited)
        seconds = max(0.0, min(message.wait_seconds, WAIT_SECONDS))
        match message.call:
            case "hello":
                return {}
            case "news" if message.agent not in ("", self._start):
                return {"restarted": True}
            case "news":
                return {"calls": await calls.news(message.awaited or Awaited(), seconds)}
            case "cancel":
                return {"value": await calls.cancel(message.number, seconds)}
        if message.number:
            return await self._begin(message, calls)
        value = await self._run(message, None)
        return {"data": value} if isinstance(value, bytes) else {"value": to_jsonable(value)}

    async def _begin(self, message: Message, calls: HeadCalls) -> dict[str, Any]:
        if message.agent != self._start:
            return {"restarted": True}

        async def work(tell: Tell) -> Any:
            await self._former_ended()
            return to_jsonable(await self._run(message, tell))

        call = calls.begin(message.number, work)
        await asyncio.wait({call.task}, timeout=self._begin_seconds)
        known = 0 if message.awaited is None else message.awaited.calls.get(message.number, 0)
        return {"calls": {message.number: call.news(known)}}

    async def _run(self, message: Message, tell: Tell | None) -> Any:
        name, agent = message.call, self._agent
        if name == "look":
            return await self._look()
        if name == "engine_problem":
            # Asked by a head that was told of no engine yet.
            problem = await asyncio.to_thread(agent.engine_problem)
            return None if problem is None else record_of(problem)
        how, (port, _, method) = METHODS.get(name), name.partition(".")
        if how is None:
            raise InputError(
                f"partitiond {__version__} on the host {agent.name} knows no call {name}.",
                hint="Upgrade partitiond on this host.",
                facts={"call": name, "release": __version__},
            )
        given = how.read(name, message.arguments, message.data)
        there = getattr(agent, port)
        if there is None:  # nothing here reads gauges, or writes to devices
            return {} if port == "gauges" else ()
        target = getattr(there, method)
        if how.told is not None:
            given["progress"] = tell or (lambda *_: None)
        if inspect.iscoroutinefunction(target):
            value = await target(**given)
        else:
            value = await asyncio.to_thread(target, **given)
        self._learn(name, given, value)
        return value

    def _learn(self, name: str, given: Mapping[str, Any], value: Any) -> None:
        """Remember the engines that run, whose peaks the looks bring."""
        match name:
            case "engines.start":
                self._handles[value.generation] = value
            case "engines.find":
                self._handles = {handle.generation: handle for handle in value}
            case "engines.stop" | "engines.wait_exit":
                self._handles.pop(given["handle"].generation, None)

    async def _look(self) -> HostLook:
        """Look at the devices; questions that come meanwhile wait for the same look."""
        looking, finding = self._looking, self._finding
        if finding is None or finding.done():
            self._finding = _seen(asyncio.to_thread(self._agent.engine_problem))
        if looking is None or looking.done():
            looking = self._looking = _seen(asyncio.to_thread(self._look_now))
        await asyncio.wait({looking})  # whoever asked may be gone before it ends
        return looking.result()

    def _look_now(self) -> HostLook:
        provider: DeviceProvider = self._agent.devices
        devices = tuple(provider.discover())
        unseen = provider.unseen if isinstance(provider, PartialDevices) else ""
        peaks: dict[str, int] = {}
        for name, handle in tuple(self._handles.items()):
            # One engine whose processes do not answer hides no device.
            with contextlib.suppress(SilentError, OSError):
                peaks[name] = self._agent.engines.peak_memory_bytes(handle)
        return HostLook(devices, unseen, peaks, self._agent.facts())


def _seen(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin work whose error nobody may ask for."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return task
