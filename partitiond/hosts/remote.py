"""Carries the calls of an agent as bytes: `RemoteHost` makes them, `HostServer` answers them.

A message is JSON. A call names a method of a port ("engines.start") and has its arguments; the
signatures of the ports say how arguments and results are read, so a port that takes anything but
plain records cannot be carried. What a call's `progress` is told is kept by the server until it is
asked for. A call that is cancelled here is cancelled there, and has ended there before the
cancellation goes on here.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import json
import typing
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from partitiond.core import errors
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.errors import EngineUnavailableError, InputError, PartitiondError
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.engine import EngineHandle
from partitiond.ports import (
    DeviceGauges,
    EngineRunner,
    ModelResolver,
    ProfileRunner,
    ProxyControl,
)
from partitiond.ports.cluster import Carrier
from partitiond.ports.host import DeviceCare, DeviceProvider, PartialDevices
from partitiond.ports.host_agent import MESSAGE_VERSION, AgentFacts, HostAgent
from partitiond.ports.partitions import PartitionWatch
from partitiond.serde import from_stored, to_jsonable

POLL_SECONDS: Final = 0.5
"""Pause between two questions for the progress of a call. Chosen: people read it."""
TOLD_MOST: Final = 100
"""Words of progress that are kept for a call; older ones are dropped, for the newest says more."""

PORTS: Final[Mapping[str, type]] = {
    "engines": EngineRunner,
    "partitions": PartitionWatch,
    "profiler": ProfileRunner,
    "models": ModelResolver,
    "proxy": ProxyControl,
    "gauges": DeviceGauges,
    "devices": DeviceCare,
}


@dataclasses.dataclass(frozen=True, slots=True)
class HostLook:
    """What a look at a host finds.

    Attributes:
        unseen: as `PartialDevices.unseen`.
        peaks: peak memory of engines in bytes, by generation.
    """

    devices: tuple[Device, ...]
    unseen: str
    peaks: Mapping[str, int]
    facts: AgentFacts


@dataclasses.dataclass(frozen=True, slots=True)
class _Method:
    """How the arguments and the result of a port's method are read.

    Attributes:
        told: kinds of what its `progress` is told; None if it has none.
    """

    arguments: Mapping[str, Any]
    result: Any
    told: tuple[Any, ...] | None


def _method(port: type, name: str) -> _Method:
    hints = typing.get_type_hints(getattr(port, name))
    result, progress = hints.pop("return"), hints.pop("progress", None)
    kinds = (progress, *typing.get_args(progress))
    called = next((k for k in kinds if typing.get_origin(k) is Callable), None)
    told = None if called is None else tuple(typing.get_args(called)[0])
    return _Method(hints, result, told)


METHODS: Final[Mapping[str, _Method]] = {
    f"{port}.{name}": _method(protocol, name)
    for port, protocol in PORTS.items()
    for name, member in inspect.getmembers(protocol, inspect.isfunction)
    if not name.startswith("_")
}


def _record_of(error: PartitiondError) -> dict[str, Any]:
    facts = {key: to_jsonable(value) for key, value in error.facts.items()}
    kind = type(error).__name__
    return {"kind": kind, "message": error.message, "hint": error.hint, "facts": facts}


def _error_of(record: Mapping[str, Any]) -> PartitiondError:
    """Return the error of a record; of a kind that this release does not know, the base of all."""
    kind = getattr(errors, record["kind"], PartitiondError)
    return cast(
        PartitiondError, kind(record["message"], hint=record["hint"], facts=record["facts"])
    )


# -- the near side ---------------------------------------------------------------------------


class RemoteHost:
    """Implements `ports.HostAgent` by messages to the host."""

    def __init__(self, name: str, line: Carrier, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.name = name
        self._line = line
        self._poll_seconds = poll_seconds
        self._session, self._count = uuid.uuid4().hex, itertools.count(1)
        self._peaks: Mapping[str, int] = {}
        self._facts = AgentFacts(name)
        self._left: TrafficSample | None = None
        self.unseen = ""
        self.devices = _RemoteDevices(self)
        self.engines = cast(EngineRunner, _RemotePort(self, "engines"))
        self.partitions = cast(PartitionWatch, _RemotePort(self, "partitions"))
        self.profiler = cast(ProfileRunner, _RemotePort(self, "profiler"))
        self.models = cast(ModelResolver, _RemotePort(self, "models"))
        self.proxy = cast(ProxyControl, _RemotePort(self, "proxy"))
        self.gauges = _RemoteGauges(self)

    def facts(self) -> AgentFacts:
        """Return what the last look brought."""
        return self._facts

    def engine_problem(self) -> EngineUnavailableError | None:
        """Return why no engine of the kind "vllm" can start there, or None."""
        record = self.ask("engine_problem", {})
        return None if record is None else cast(EngineUnavailableError, _error_of(record))

    def log_tail(self, handle: EngineHandle, size_bytes: int) -> str:
        """Return the end of an engine's log; empty if it has no log any more."""
        return str(self.ask("log_tail", {"handle": handle, "size_bytes": size_bytes}))

    def look(self) -> HostLook:
        """Look at the host. Raises HostSilentError, DeviceError; InputError: it is another host."""
        found = from_stored(HostLook, self.ask("look", {}))
        if found.facts.name != self.name:
            raise InputError(
                f"{found.facts.name} answers in the place of the host {self.name}.",
                hint="Have it join under its own name.",
                facts={"host": self.name, "answers": found.facts.name},
            )
        self._peaks, self._facts, self.unseen = found.peaks, found.facts, found.unseen
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

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        progress: Callable[..., None] | None = None,
    ) -> Any:
        """Make a call, and tell `progress` what it is told there."""
        call_id = self._next_id()
        answer = asyncio.ensure_future(self._line.call(_call(name, arguments, call_id)))
        try:
            while progress is not None and not answer.done():
                await asyncio.wait([answer], timeout=self._poll_seconds)
                await self._pass_on(name, call_id, progress)
            return _read(name, await asyncio.shield(answer))
        except asyncio.CancelledError:
            with contextlib.suppress(PartitiondError):
                await self._line.call(_call("cancel", {}, call_id))
            raise
        finally:
            answer.cancel()

    async def _pass_on(self, name: str, call_id: str, progress: Callable[..., None]) -> None:
        with contextlib.suppress(errors.HostSilentError):
            body = await self._line.call(_call("told", {}, call_id))
            kinds = METHODS[name].told or ()
            for said in _read("told", body):
                progress(*(from_stored(k, one) for k, one in zip(kinds, said, strict=True)))

    def _next_id(self) -> str:
        return f"{self._session}-{next(self._count)}"  # `next` of a count is atomic

    def ask(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Make a call from a thread."""
        return _read(name, self._line.ask(_call(name, arguments, self._next_id())))


def _call(name: str, arguments: Mapping[str, object], call_id: str) -> bytes:
    given = {key: to_jsonable(value) for key, value in arguments.items()}
    message = {"version": MESSAGE_VERSION, "call": name, "id": call_id, "arguments": given}
    return json.dumps(message).encode()


def _read(name: str, body: bytes) -> Any:
    answer = json.loads(body)
    if "error" in answer:
        raise _error_of(answer["error"])
    method = METHODS.get(name)
    return answer["value"] if method is None else from_stored(method.result, answer["value"])


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


# -- the far side ----------------------------------------------------------------------------


class HostServer:
    """Answers messages by the agent of this host."""

    def __init__(self, agent: HostAgent) -> None:
        self._agent = agent
        self._told: dict[str, deque[list[Any]]] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._handles: dict[str, EngineHandle] = {}

    async def answer(self, body: bytes) -> bytes:
        """Return the answer to a message; errors are answers, too."""
        try:
            message = json.loads(body)
            if message["version"] > MESSAGE_VERSION:
                raise InputError(
                    f"messages of version {message['version']} are too new for this host.",
                    hint="Upgrade partitiond on this host.",
                    facts={"version": message["version"], "newest": MESSAGE_VERSION},
                )
            value = await self._do(message["call"], message["arguments"], message["id"])
            return json.dumps({"value": to_jsonable(value)}).encode()
        except PartitiondError as error:
            return json.dumps({"error": _record_of(error)}).encode()
        except Exception as error:  # noqa: BLE001 - a defect here is told to whoever asked
            broke = PartitiondError(f"{type(error).__name__}: {error}")
            return json.dumps({"error": _record_of(broke)}).encode()

    async def _do(self, name: str, arguments: Mapping[str, Any], call_id: str) -> Any:
        agent = self._agent
        match name:
            case "look":
                return await asyncio.to_thread(self._look)
            case "told":
                told = self._told.get(call_id, deque())
                return [told.popleft() for _ in range(len(told))]
            case "cancel":
                return await self._cancel(call_id)
            case "engine_problem":
                problem = await asyncio.to_thread(agent.engine_problem)
                return None if problem is None else _record_of(problem)
            case "log_tail":
                handle = from_stored(EngineHandle, arguments["handle"])
                size_bytes = int(arguments["size_bytes"])
                return await asyncio.to_thread(agent.log_tail, handle, size_bytes)
        if name not in METHODS:
            raise InputError(
                f"this host knows no call {name}.", hint="Upgrade partitiond on this host."
            )
        return await self._run(name, arguments, call_id)

    async def _run(self, name: str, arguments: Mapping[str, Any], call_id: str) -> Any:
        how, (port, _, method) = METHODS[name], name.partition(".")
        given = {k: from_stored(how.arguments[k], v) for k, v in arguments.items()}
        there = getattr(self._agent, port)
        if there is None:  # nothing here reads gauges, or writes to devices
            return {} if port == "gauges" else ()
        target = getattr(there, method)
        if how.told is not None:
            told = self._told[call_id] = deque(maxlen=TOLD_MOST)
            given["progress"] = lambda *said: told.append([to_jsonable(one) for one in said])
        if inspect.iscoroutinefunction(target):
            task = asyncio.ensure_future(target(**given))
        else:
            task = asyncio.ensure_future(asyncio.to_thread(target, **given))
        self._running[call_id] = task
        try:
            value = await task
        except asyncio.CancelledError:
            raise PartitiondError(f"{name} was cancelled.") from None
        finally:
            self._running.pop(call_id, None)
            self._told.pop(call_id, None)
        self._learn(name, value)
        return value

    async def _cancel(self, call_id: str) -> None:
        task = self._running.get(call_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _learn(self, name: str, value: Any) -> None:
        """Remember the engines, whose peaks the looks bring."""
        if name == "engines.start":
            self._handles[value.generation] = value
        elif name == "engines.find":
            self._handles = {handle.generation: handle for handle in value}

    def _look(self) -> HostLook:
        provider: DeviceProvider = self._agent.devices
        devices = tuple(provider.discover())
        unseen = provider.unseen if isinstance(provider, PartialDevices) else ""
        peak = self._agent.engines.peak_memory_bytes
        peaks = {name: peak(handle) for name, handle in tuple(self._handles.items())}
        return HostLook(devices, unseen, peaks, self._agent.facts())
