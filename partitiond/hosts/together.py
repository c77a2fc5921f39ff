"""Makes the ports of a control plane over the agents of several hosts."""

from collections.abc import Mapping, Sequence

from partitiond.core.errors import EngineUnavailableError, HostSilentError, SilentError
from partitiond.core.hardware.host_state import HostLimits, HostView, with_ray_told
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents, HostRecord
from partitiond.hosts.devices import (
    LATE_SECONDS,
    LOOK_SECONDS,
    HostsDevices,
    HostsGauges,
    HostsPartitions,
)
from partitiond.hosts.engines import HostsEngines, HostsProfiler
from partitiond.hosts.models import HostsModels
from partitiond.hosts.proxies import HostsProxies
from partitiond.ports.host import Clock
from partitiond.ports.host_agent import AgentFacts, HostAgent
from partitiond.store import Store


class Hosts:
    """Holds the composites of the ports, and what hosts say of themselves.

    Args:
        agents: the control plane's own host's first.
        look_seconds: deadline of a look at one host.
        ask_again_seconds: pause before a silent host is asked again.
        late_seconds: how long a look at all hosts waits for one of them.
        limits: how long a host may say nothing.
        clock: tells for how long it has.
        store: keeps how keys are divided among the hosts.
    """

    def __init__(
        self,
        agents: Sequence[HostAgent],
        *,
        look_seconds: float = LOOK_SECONDS,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        late_seconds: float = LATE_SECONDS,
        limits: HostLimits | None = None,
        clock: Clock | None = None,
        store: Store | None = None,
    ) -> None:
        self._agents = Agents(agents, limits=limits, clock=clock)
        self.engines = HostsEngines(self._agents, ask_again_seconds=ask_again_seconds)
        self.devices = HostsDevices(
            self._agents, look_seconds=look_seconds, late_seconds=late_seconds
        )
        self.gauges = HostsGauges(self._agents)
        self.partitions = HostsPartitions(self._agents)
        self.profiler = HostsProfiler(self._agents, ask_again_seconds=ask_again_seconds)
        self.proxy = HostsProxies(self._agents, ask_again_seconds=ask_again_seconds, store=store)
        self.models = HostsModels(self._agents, ask_again_seconds=ask_again_seconds)

    @property
    def own_name(self) -> str:
        """Name of the control plane's own host."""
        return self._agents.own.name

    def add(self, agent: HostAgent) -> None:
        """Count with a host that joined, once its engines are known."""
        self._agents.add(agent)

    def remove(self, host: str) -> None:
        """Count with a host no more; what runs there is not waited for."""
        self._agents.remove(host)

    def overtaken(self, why: str) -> None:
        """Begin nothing on the own host any more, because this head was overtaken; empty: it was
        not.
        """
        self._agents.overtaken = why

    def facts(self) -> Sequence[AgentFacts]:
        """Return what each host says of itself, as last known."""
        return tuple(record.agent.facts() for record in self._agents.all)

    def views(self) -> Sequence[HostView]:
        """Return what is known of each host, the own one first, then by name. What only its
        members know of a cluster (addresses, hosts that were refused) is left out.
        """
        own, *others = self._agents.all
        ray = own.agent.facts().ray_version
        unreached = self.proxy.unreached()
        views = (
            self._view(record, tuple(unreached.get(record.name, ())))
            for record in (own, *sorted(others, key=lambda record: record.name))
        )
        return tuple(with_ray_told(view, ray) for view in views)

    def _view(self, record: HostRecord, unreached: tuple[str, ...]) -> HostView:
        facts, devices = record.agent.facts(), self.devices.devices_of(record)
        standing, seen = self._agents.standing(record), record.seen
        return HostView(
            name=record.name,
            state=standing.state,
            reason=standing.reason,
            is_head=record.is_own,
            host_id=facts.host_id,
            partitiond_version=facts.partitiond_version,
            engine_version=facts.engine_version,
            ray_version=facts.ray_version,
            silent_seconds=standing.silent_seconds,
            last_word="" if seen is None else seen.utc,
            clock_offset_seconds=None if seen is None else seen.clock_offset_seconds,
            gpus=sum(device.kind is DeviceKind.GPU for device in devices),
            devices=len(devices),
            peers_address=facts.peers_address,
            unreached=unreached,
        )

    def engine_version(self, host: str) -> str:
        """Return the version of a host's engine; empty while it is not known."""
        try:
            return self._agents.of(host).facts().engine_version
        except HostSilentError:
            return ""

    def host_memory(self) -> Mapping[str, int]:
        """Return the memory for engines, by name of those hosts that tell it."""
        told = {facts.name: facts.engine_memory_bytes for facts in self.facts()}
        return {name: memory for name, memory in told.items() if memory is not None}

    def engine_problem(self) -> EngineUnavailableError | None:
        """Return why no engine of the kind "vllm" can start on any host, or None. May block.

        Raises SilentError: no engine is known, and a host was not looked at yet, or is silent.
        """
        own, *others = (record.agent for record in self._agents.all)
        problem = own.engine_problem()
        if problem is None:
            return None
        silent: SilentError | None = None
        for agent in others:
            try:
                if agent.engine_problem() is None:
                    return None
            except SilentError as error:
                silent = error
        if silent is not None:
            raise silent
        return problem
