"""Makes an agent's calls by messages to its host."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import KeyRoute, RoutingTable
from partitiond.core.errors import (
    ConflictError,
    EngineUnavailableError,
    FencedError,
    HostSilentError,
    InputError,
    PartitiondError,
)
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.engine import EngineHandle
from partitiond.hosts.calls.fencing import HeadSession, has_overtaken, obeyed_by
from partitiond.hosts.calls.messages import (
    AgentAnswer,
    Awaited,
    CallNews,
    Message,
    error_of,
    read_answer,
    write,
)
from partitiond.hosts.calls.signatures import METHODS, PATIENT, PORTS, QUESTIONS, HostLook
from partitiond.ports import (
    EngineRunner,
    ModelFolders,
    ModelResolver,
    ProfileRunner,
    ProxyControl,
)
from partitiond.ports.cluster import Carrier
from partitiond.ports.host_agent import AgentFacts
from partitiond.ports.partitions import PartitionWatch
from partitiond.serde import from_stored, to_jsonable

NEWS_SECONDS: Final = 10.0
"""How long the question for news waits for some. Chosen: below the deadline of a message."""
PAUSE_SECONDS: Final = 1.0
"""Pause before a message that failed is repeated. Chosen: a question costs a failed connect."""
SILENT_SECONDS: Final = 20.0
"""Time without word after which calls end: as the setting `host.silent_seconds` has it."""
KNOCK_SECONDS: Final = 2.0
"""How long a call to a host that is silent waits for word of it. Chosen: the loop's pass makes
several, and a host that is back answers in a hundredth of it."""

ASK_SECONDS: Final = 60.0
"""Longest wait of a thread for the event loop. Chosen: above the deadline of any message."""

_NUMBERS: Final = itertools.count(1)
"""Of all calls of this process: a line that takes the place of a former one has higher ones."""


class _Tables:
    """Converts routing tables to JSON; their keys, a thousand perhaps, once for all hosts: what is
    told to each of 64 hosts would else take the event loop half a second. Only the loop uses it.
    """

    def __init__(self) -> None:
        self._keys: tuple[KeyRoute, ...] = ()
        self._json: list[Any] = []

    def of(self, table: RoutingTable) -> dict[str, Any]:
        """Return what `to_jsonable` returns of a table. The caller changes nothing of it."""
        if self._keys is not table.keys:
            self._keys, self._json = table.keys, to_jsonable(table.keys)
        rest: dict[str, Any] = to_jsonable(dataclasses.replace(table, keys=()))
        return {**rest, "keys": self._json}


_TABLES: Final = _Tables()


class _NearCall:
    """A call that was made and has not ended yet.

    Attributes:
        agent: the start of the agent that it is sent to, with which it ends.
        runs: the agent said so.
        is_settled: the agent has no part in it any more.
    """

    def __init__(self, name: str, agent: str, progress: Callable[..., None] | None) -> None:
        self.name = name
        self.agent = agent
        self.runs = False
        self.is_settled = False
        self.words = 0
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._progress = progress

    def take(self, news: CallNews) -> None:
        """Tell the progress, then end if it has ended there."""
        self.is_settled = self.is_settled or news.ended
        if self.result.done():
            return
        try:
            self._tell(news)
            if news.error is not None:
                raise error_of(news.error)
            if news.ended:
                self.result.set_result(from_stored(METHODS[self.name].result, news.value))
        except Exception as error:  # noqa: BLE001 - of `progress`, too: it is the caller's
            self.fail(error)

    def _tell(self, news: CallNews) -> None:
        kinds = METHODS[self.name].told or ()
        for number, said in news.told:
            if number > self.words:
                self.words = number
                if self._progress is not None:
                    given = (from_stored(k, one) for k, one in zip(kinds, said, strict=True))
                    self._progress(*given)

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended."""
        if not self.result.done():
            self.result.set_exception(error)


class RemoteHost:
    """Implements `ports.HostAgent` by messages to the host.

    A call waits for its result as long as the host gives word at least every
    `silent_seconds`, and then raises HostSilentError: what it did is not known. It raises that at
    once if the host refuses, or if the agent was started again, with which its calls end. A call to
    a host that is silent already does not wait. A question (`signatures.QUESTIONS`) is one message,
    and raises HostSilentError without an answer; but for looks, none waits for a silent host.

    To be made in the event loop. Methods that are no coroutines are for other threads.

    A host that refused, as one that is another than the host of the id, is sent nothing but looks
    until it answers one of them.

    Args:
        line: moves a message there and its answer back, within a deadline above `NEWS_SECONDS`.
        head: on whose behalf the calls are made.
        host_id: of the host, in each message to it; empty if it is to be learned by the first look.
        peers_address: where its proxy served those of other hosts, until a look says it.
        silent_seconds: time without word after which calls end.
        pause_seconds: before a message that failed is repeated.
        knock_seconds: how long a call to a host that is silent waits for word of it.
        admit: is told what each look brings that the host says of itself, in the look's thread.

    Attributes:
        seen_epoch: the highest epoch of another head that the host said it obeys; 0 if none.
        overtaken_by: epoch of the head that the host of the id obeys instead, if that one overtakes
            this head; 0 if it obeys this one, or said no word.
    """

    def __init__(
        self,
        name: str,
        line: Carrier,
        *,
        head: HeadSession,
        host_id: str = "",
        peers_address: str = "",
        silent_seconds: float = SILENT_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        knock_seconds: float = KNOCK_SECONDS,
        admit: Callable[[AgentFacts], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.seen_epoch = 0
        self.overtaken_by = 0
        self._carrier = line
        self._head = head
        self._host_id = host_id
        self._refusal: PartitiondError | None = None
        """Why the last message was refused there; None if it was not."""
        self._silent_seconds = silent_seconds
        self._pause_seconds = pause_seconds
        self._knock_seconds = knock_seconds
        self._admit = admit
        self._number = 0
        """Of the last call."""
        self._calls: dict[int, _NearCall] = {}
        self._agent = ""
        self._last_word = -math.inf
        self._news: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._lacks_engine = ""
        """The agent's start that said that there is no engine."""
        self._looked = False
        self._peaks: Mapping[str, int] = {}
        self._facts = AgentFacts(name, peers_address=peers_address)
        self._left: TrafficSample | None = None
        self.unseen = ""
        self.devices = _RemoteDevices(self)
        self.engines = cast(EngineRunner, _RemotePort(self, "engines"))
        self.partitions = cast(PartitionWatch, _RemotePort(self, "partitions"))
        self.profiler = cast(ProfileRunner, _RemotePort(self, "profiler"))
        self.models = cast(ModelResolver, _RemotePort(self, "models"))
        self.folders = cast(ModelFolders, _RemotePort(self, "folders"))
        self.proxy = cast(ProxyControl, _RemotePort(self, "proxy"))
        self.gauges = _RemoteGauges(self)

    # -- what the port has ---------------------------------------------------------------------

    @property
    def refused(self) -> str:
        """Why the host does nothing that is asked of it now; empty if it does."""
        return "" if self._refusal is None else str(self._refusal)

    @property
    def heard_at(self) -> float | None:
        """Monotonic seconds of its last word; None before the first one."""
        return self._last_word if math.isfinite(self._last_word) else None

    def facts(self) -> AgentFacts:
        """Return what the last look brought."""
        return self._facts

    def silent_for(self) -> float:
        """Return the seconds since the last word; infinite if there was none."""
        return time.monotonic() - self._last_word

    def engine_problem(self) -> EngineUnavailableError | None:
        """Return that no engine of the kind "vllm" is known there, or None.

        An agent whose look told none is asked, until it says that there is none: it looks for the
        engine then. Raises HostSilentError: the host was not looked at yet, or does not answer.
        """
        if self._facts.engine_version:
            return None
        if not self._looked:
            raise self._silent("it was not looked at yet")
        if self._lacks_engine != self._agent:
            asked = self._agent
            if self.ask("engine_problem", {}) is None:
                return None
            self._lacks_engine = asked
        return EngineUnavailableError(
            f"no vLLM is known on the host {self.name}.",
            hint="Run `partitiond setup engine install` there.",
            facts={"host": self.name},
        )

    def look(self) -> HostLook:
        """Look at the host.

        Raises:
            HostSilentError: it does not answer.
            DeviceError: its driver refuses.
            ConflictError: it obeys another head, or another host answers under its name.
        """
        try:
            found = from_stored(HostLook, self.ask("look", {}))
        except HostSilentError as error:
            if self.refused:
                raise ConflictError(self.refused, facts={"host": self.name}) from error
            raise
        self._host_id = self._host_id or found.facts.host_id
        self._peaks, self._facts, self.unseen = found.peaks, found.facts, found.unseen
        self._looked = True
        self._admit(found.facts)
        return found

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return what the last look brought."""
        return self._peaks.get(handle.generation, 0)

    def last_sample(self) -> TrafficSample | None:
        """Return what the proxy that ended last had counted, as its successor's start brought."""
        return self._left

    async def ensure_running(self) -> bool:
        """Adopt or start the proxy, and learn what the former one counted."""
        started = bool(await self.call("proxy.ensure_running", {}))
        self._left = await self.call("proxy.last_sample", {})
        return started

    async def close(self) -> None:
        """Ask for no news any more. Calls that run end with HostSilentError."""
        if self._news is not None:
            self._news.cancel()
            await asyncio.gather(self._news, return_exceptions=True)
        self._fail_all(self._silent("this control plane ends its line"))

    # -- calls ---------------------------------------------------------------------------------

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        progress: Callable[..., None] | None = None,
    ) -> Any:
        """Make a call, and tell `progress` what it is told there."""
        given = {key: _jsonable(value) for key, value in arguments.items()}
        if self._is_silent():
            await self._knock()
        number = self._number = next(_NUMBERS)
        call = self._calls[number] = _NearCall(name, self._agent, progress)
        begin = asyncio.ensure_future(self._begin(number, call, given))
        try:
            await asyncio.wait({call.result})
            return call.result.result()
        except HostSilentError:  # the next message says that nobody waits for it
            raise
        except BaseException:
            begin.cancel()
            await self._cancel(number, call)
            raise
        finally:
            begin.cancel()
            if call.result.done():
                call.result.exception()  # perhaps it came while the call was being cancelled
            del self._calls[number]

    async def _knock(self) -> None:
        """Wait a moment for word of a silent host. Raises HostSilentError without."""
        try:
            async with asyncio.timeout(self._knock_seconds):
                await self._send("hello")
        except TimeoutError:
            raise self._silent("no answer came yet") from None

    async def _begin(self, number: int, call: _NearCall, arguments: Mapping[str, Any]) -> None:
        """Send the begin of a call until the agent has it; a number begins one call once."""
        try:
            while not call.result.done():
                try:
                    answer = await self._send(
                        call.name, number=number, agent=call.agent, arguments=arguments
                    )
                except HostSilentError:
                    if self.refused or self._is_silent() or call.name not in PATIENT:
                        raise
                    await asyncio.sleep(self._pause_seconds)
                    continue
                if answer.error is not None:
                    call.is_settled = True
                    raise error_of(answer.error)
                if not answer.later:
                    break
                await asyncio.sleep(min(self._pause_seconds, 0.1))  # said by a release before
            call.runs = not call.is_settled
            if call.runs and (self._news is None or self._news.done()):
                self._news = asyncio.ensure_future(self._collect())
        except Exception as error:  # noqa: BLE001 - the caller raises it
            call.fail(error)

    async def _cancel(self, number: int, call: _NearCall) -> None:
        """Cancel a call there and wait for its end. If the host is silent, it is told later."""
        with contextlib.suppress(PartitiondError):
            while not call.is_settled:
                answer = await self._send("cancel", number=number, wait_seconds=NEWS_SECONDS)
                if answer.error is not None or answer.value:
                    return

    async def _collect(self) -> None:
        """Collect what becomes of calls, as long as some run."""
        while any(call.runs and not call.result.done() for call in self._calls.values()):
            try:
                answer = await self._send("news", agent=self._agent, wait_seconds=NEWS_SECONDS)
                if answer.error is not None:
                    self._fail_all(self._silent(answer.error.message))
            except HostSilentError as error:
                if self.refused or self._is_silent():
                    self._fail_all(error)
                await asyncio.sleep(self._pause_seconds)

    def _is_silent(self) -> bool:
        return self.silent_for() > self._silent_seconds

    def _fail_all(self, error: Exception) -> None:
        for call in self._calls.values():
            call.runs = False
            call.fail(error)

    # -- messages ------------------------------------------------------------------------------

    async def question(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Ask a question; one argument and the value may be bytes."""
        if name != "look" and self._is_silent():
            await self._knock()
        method = METHODS.get(name)
        data_name = "" if method is None else method.data
        given = {key: to_jsonable(value) for key, value in arguments.items() if key != data_name}
        data = cast(bytes | None, arguments.get(data_name))
        answer = await self._send(name, arguments=given, data=data)
        if answer.error is not None:
            raise error_of(answer.error)
        if method is None:
            return answer.value
        return answer.data if method.result is bytes else from_stored(method.result, answer.value)

    def ask(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Ask a question from another thread than the event loop's."""
        if self._loop.is_closed():
            raise self._silent("this control plane has ended")
        asked = asyncio.run_coroutine_threadsafe(self.question(name, arguments), self._loop)
        try:
            return asked.result(ASK_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError):  # the loop ends
            raise self._silent("this control plane ends") from None

    async def _send(
        self,
        name: str,
        *,
        number: int = 0,
        agent: str = "",
        arguments: Mapping[str, Any] | None = None,
        wait_seconds: float = 0.0,
        data: bytes | None = None,
    ) -> AgentAnswer:
        """Send a message, and take what the answer says of calls."""
        waits = {n: call.words for n, call in self._calls.items() if not call.result.done()}
        body = self._message(
            name,
            number=number,
            agent=agent,
            arguments=arguments or {},
            awaited=Awaited(self._number, waits),
            wait_seconds=wait_seconds,
            data=data,
        )
        answer = self._heard(await self._carrier.call(body))
        self._learn_agent(answer.agent)
        for each, news in answer.calls.items():
            if (call := self._calls.get(each)) is not None:
                call.take(news)
        return answer

    def _message(self, name: str, **named: Any) -> bytes:
        """Return a message. Raises HostSilentError: it is no look, and the host refused."""
        why = self._refusal
        if name != "look" and why is not None and type(why) is not InputError:
            raise self._refuses(why)  # an InputError is of one message alone
        message = Message(
            call=name,
            head=self._head,
            host=self.name,
            host_id=self._host_id,
            **named,
        )
        return write(message)

    def _heard(self, body: bytes) -> AgentAnswer:
        """Return an answer. Raises HostSilentError: the host refuses, or answers nonsense."""
        try:
            answer = read_answer(body)
        except InputError as error:
            raise self._silent(error.message) from error
        if answer.refused is not None:
            self._refusal = why = error_of(answer.refused)
            obeyed = obeyed_by(why) if isinstance(why, FencedError) else None
            if obeyed is not None:
                self.seen_epoch = max(self.seen_epoch, obeyed.epoch)
                is_ours = bool(self._host_id) and answer.host_id == self._host_id
                if is_ours and has_overtaken(obeyed, self._head):
                    self.overtaken_by = obeyed.epoch
            raise self._refuses(why) from why
        self._refusal, self.overtaken_by = None, 0
        self._last_word = time.monotonic()
        return answer

    def _learn_agent(self, agent: str) -> None:
        """Note the agent's present start; the calls of an earlier one have ended with it."""
        if agent == self._agent:
            return
        self._agent = agent
        for call in self._calls.values():
            if call.agent != agent:
                call.fail(self._silent("its agent was started again, with which calls end"))

    def _refuses(self, why: PartitiondError) -> HostSilentError:
        return HostSilentError(why.message, hint=why.hint, facts={**why.facts, "host": self.name})

    def _silent(self, why: str) -> HostSilentError:
        return HostSilentError(
            f"the host {self.name} does not say what became of the call: {why}.",
            hint="Its engines go on; look there with `systemctl status partitiond`.",
            facts={"host": self.name},
        )


def _jsonable(value: object) -> Any:
    return _TABLES.of(value) if isinstance(value, RoutingTable) else to_jsonable(value)


class _RemotePort:
    """A port whose methods are calls; those that return at once say what the last look brought."""

    def __init__(self, host: RemoteHost, port: str) -> None:
        self._host = host
        self._port = port

    def __getattr__(self, name: str) -> Any:
        host, call = self._host, f"{self._port}.{name}"
        if name in ("peak_memory_bytes", "last_sample", "ensure_running"):
            return getattr(host, name)
        if call not in METHODS:
            raise AttributeError(name)
        names = tuple(inspect.signature(getattr(PORTS[self._port], name)).parameters)[1:]

        def method(*args: object, **named: object) -> Awaitable[Any]:
            arguments = dict(zip(names, args, strict=False)) | named
            if self._port in QUESTIONS:
                return host.question(call, arguments)
            progress = arguments.pop("progress", None)
            return host.call(call, arguments, cast(Callable[..., None] | None, progress))

        return method


class _RemoteDevices:
    """Implements `ports.DeviceProvider`, `DeviceCare` and `PartialDevices`."""

    def __init__(self, host: RemoteHost) -> None:
        self._host = host

    @property
    def unseen(self) -> str:
        """Why existing devices may be missing from the last look; empty if none are."""
        return self._host.unseen

    def discover(self) -> Sequence[Device]:
        """Return all devices now."""
        return self._host.look().devices

    def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device."""
        found: DeviceDetails = self._host.ask("devices.inspect", {"device_id": device_id})
        return found

    def forgive(self, device_id: str) -> None:
        """Forget what was held against the device so far."""
        self._host.ask("devices.forgive", {"device_id": device_id})


class _RemoteGauges:
    """Implements `ports.DeviceGauges`."""

    def __init__(self, host: RemoteHost) -> None:
        self._host = host

    def read(self) -> Mapping[str, DeviceReading]:
        """Return readings by device id."""
        found: Mapping[str, DeviceReading] = self._host.ask("gauges.read", {})
        return found
