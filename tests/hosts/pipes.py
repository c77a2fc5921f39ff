"""Agents for tests: in this process, and behind a pipe through which only bytes go."""

import asyncio
import dataclasses
import json
from collections.abc import Iterable, Mapping

from partitiond.core.errors import EngineUnavailableError, HostSilentError
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.host_state import HostLimits
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.units import Bytes
from partitiond.devices.cpu import cpu_device_id
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.together import Hosts
from partitiond.ports import Clock, EngineRunner, ModelFolders
from partitiond.ports.host_agent import AgentFacts
from partitiond.ports.model import ModelFile, ModelListing, ReceivedModel
from tests.controller.fakes import FakeProfiler, FakeProxy, FakeResolver, FakeRunner
from tests.devices.fake import FakeDevices, fake_cpu, fake_gpus
from tests.hosts.virtual_time import passes

LATE_SECONDS = 4.0
"""Of a message that arrives late, by the loop's clock."""


class Pipe:
    """Carries messages to a host of this process, as bytes; silent when told to be.

    Attributes:
        carried: bytes of messages.
        calls: what each message asked.
    """

    def __init__(self, server: HostServer) -> None:
        self._server = server
        self._cut = asyncio.Event()
        self.carried = 0
        self.calls: list[str] = []

    def cut(self) -> None:
        """Carry nothing from now on; whoever waits for an answer gets none."""
        self._cut.set()

    @property
    def is_cut(self) -> bool:
        return self._cut.is_set()

    def mend(self) -> None:
        self._cut = asyncio.Event()

    async def call(self, body: bytes) -> bytes:
        if self._cut.is_set():
            raise HostSilentError("the pipe is cut.")
        assert isinstance(body, bytes)
        self.carried += len(body)
        self.calls.append(json.loads(body.partition(b"\n")[0])["call"])
        answer = asyncio.ensure_future(self._server.answer(body))
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({answer, cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
        if not answer.done():  # it goes on there, as on a host that lost its network
            raise HostSilentError("the pipe is cut.")
        assert isinstance(answer.result(), bytes)
        return answer.result()


@dataclasses.dataclass
class FakeGauges:
    readings: dict[str, DeviceReading] = dataclasses.field(default_factory=dict)

    def read(self) -> Mapping[str, DeviceReading]:
        return self.readings


@dataclasses.dataclass
class FakePartitions:
    broken: list[DeviceFault] = dataclasses.field(default_factory=list)
    held: list[ShareUse] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    breaks_with: Exception | None = None

    async def faults(self) -> list[DeviceFault]:
        if self.breaks_with is not None:
            raise self.breaks_with
        return self.broken

    async def shares(self) -> list[ShareUse]:
        if self.breaks_with is not None:
            raise self.breaks_with
        return self.held

    async def clear(self) -> list[str]:
        return self.left


class SharedFolders:
    """Folders of models that all hosts have at the same place."""

    async def listing(self, folder: str) -> ModelListing:
        return ModelListing(folder, (ModelFile("config.json", 2, "44136fa355b3"),))

    async def read(self, folder: str, name: str, offset: int, size: int) -> bytes:
        return b"{}"[offset : offset + size]

    async def receive(self, listing: ModelListing) -> ReceivedModel:
        return ReceivedModel(listing.folder, {})

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        raise AssertionError("nothing is copied")


@dataclasses.dataclass
class FakeAgent:
    """An agent in this process; all but its engines is fake."""

    name: str
    engines: EngineRunner
    devices: FakeDevices
    gauges: FakeGauges = dataclasses.field(default_factory=FakeGauges)
    partitions: FakePartitions = dataclasses.field(default_factory=FakePartitions)
    profiler: FakeProfiler = dataclasses.field(default_factory=FakeProfiler)
    models: FakeResolver = dataclasses.field(default_factory=FakeResolver)
    folders: ModelFolders = dataclasses.field(default_factory=SharedFolders)
    proxy: FakeProxy = dataclasses.field(default_factory=FakeProxy)
    problem: EngineUnavailableError | None = None
    engine_version: str = "0.1"
    host_id: str = ""
    peers_address: str = ""
    heard_at: None = None

    def facts(self) -> AgentFacts:
        return AgentFacts(
            self.name,
            engine_version=self.engine_version,
            engine_memory_bytes=7,
            host_id=self.host_id,
            peers_address=self.peers_address,
        )

    def engine_problem(self) -> EngineUnavailableError | None:
        return self.problem

    @property
    def runner(self) -> FakeRunner:
        """Its engines, if these are fake, too."""
        assert isinstance(self.engines, FakeRunner)
        return self.engines


class BadLine:
    """Carries messages to an agent, each to its own fate; once those are used up, well.

    Attributes:
        fates: of the next messages.
    """

    def __init__(self, there: FakeAgent, fates: Iterable[str] = ()) -> None:
        self._there = there
        self.fates = iter(fates)
        self._server = HostServer(there, begin_seconds=1.0)
        self._late: list[asyncio.Task[bytes]] = []

    async def call(self, body: bytes) -> bytes:
        fate = next(self.fates, "carried")
        server = self._server
        if fate == "lost":
            raise HostSilentError("lost.")
        if fate == "late":  # and the sender does not wait for it
            self._late.append(asyncio.ensure_future(self._carry_late(body)))
            raise HostSilentError("late.")
        if fate == "restart":
            await self.restart()
            server = self._server
        if fate == "damaged" and body.partition(b"\n")[2]:
            body = body[:-1] + bytes([body[-1] ^ 1])
        answer = await server.answer(body)
        if fate == "twice":
            answer = await self._server.answer(body)
        if fate == "unanswered":
            raise HostSilentError("unanswered.")
        return answer

    async def _carry_late(self, body: bytes) -> bytes:
        await passes(LATE_SECONDS)
        return await self._server.answer(body)

    async def restart(self) -> None:
        """The agent ends, and another one begins, with the record that the host kept."""
        await self._server.close()
        former, self._server = self._server, HostServer(self._there, begin_seconds=0.001)
        self._server._obeyed = former._obeyed

    async def arrived(self) -> None:
        await asyncio.gather(*self._late)


def devices_of(host: str, cores: tuple[int, ...] = (0, 1)) -> tuple[Device, ...]:
    """A GPU and a CPU, with ids that no other host has."""
    (gpu,) = fake_gpus("a100-80gb", host=host, cores=cores)
    cpu = fake_cpu(len(cores), host=host, device_id=cpu_device_id(host))
    return (
        dataclasses.replace(gpu, id=f"GPU-{host}"),
        dataclasses.replace(cpu, cores=cores, free_bytes=Bytes(cpu.memory_bytes)),
    )


def agent(name: str, engines: EngineRunner, *, host_id: str = "") -> FakeAgent:
    return FakeAgent(name, engines, FakeDevices(devices_of(name)), host_id=host_id)


HEAD = HeadSession("head", 1, 1, "session")


class LookedAt(RemoteHost):
    """A host of which looks alone tell when it was heard, by the clock of the test."""

    @property
    def heard_at(self) -> None:
        return None


def piped(
    there: FakeAgent, *, head: HeadSession = HEAD, silent_seconds: float = 0.0
) -> tuple[RemoteHost, Pipe]:
    """The same agent behind a pipe."""
    pipe = Pipe(HostServer(there))
    host = LookedAt(
        there.name,
        pipe,
        head=head,
        silent_seconds=silent_seconds,
        pause_seconds=0.005,
        knock_seconds=60.0,
    )
    return host, pipe


class SeveralHosts:
    """Hosts of this process, of which the first is the head's own.

    Attributes:
        agents: by name.
        pipes: through which the others are reached, by name.
        hosts: as the control plane has them; `reach` is what its successor has.
    """

    def __init__(self, *names: str, clock: Clock, limits: HostLimits | None = None) -> None:
        self.agents = {name: agent(name, FakeRunner(), host_id=f"id-{name}") for name in names}
        self.pipes: dict[str, Pipe] = {}
        self._clock, self._limits = clock, limits
        self.hosts = self.reach()

    def reach(self) -> Hosts:
        """Nothing is known of any host yet, and no pipe is cut."""
        own, *others = self.agents.values()
        reached = {there.name: piped(there) for there in others}
        self.pipes = {name: pipe for name, (_, pipe) in reached.items()}
        self.hosts = Hosts(
            [own, *(remote for remote, _ in reached.values())],
            look_seconds=30.0,
            late_seconds=60.0,
            limits=self._limits,
            ask_again_seconds=0.005,
            clock=self._clock,
        )
        return self.hosts

    def running(self) -> dict[str, list[str]]:
        """Names of the engines that run, by host."""
        return {name: there.runner.running() for name, there in self.agents.items()}
