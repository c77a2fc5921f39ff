"""Defines a host's agent: everything that one host can do for a control plane.

An agent has the ports of its host, and adds what a control plane of several hosts has to know of
each. All of it can be called from afar: arguments and results are plain records, which
`partitiond.serde` writes and reads. The exception are callbacks called `progress`: what they are
told is kept where the call runs, and asked for while the call goes on (`partitiond.hosts.calls`).

Methods that are no coroutines may block, and are called in threads; but `facts`,
`EngineRunner.peak_memory_bytes` and `ProxyControl.last_sample` return at once, from afar what the
last look brought.

A host that cannot be reached raises HostSilentError from each call: nothing is known of what the
call did. Its engines go on.
"""

import dataclasses
from typing import Final, Protocol

from partitiond.core.errors import EngineUnavailableError
from partitiond.ports.engine import EngineRunner
from partitiond.ports.gauges import DeviceGauges
from partitiond.ports.host import DeviceProvider, ProxyControl
from partitiond.ports.model import ModelFolders, ModelResolver
from partitiond.ports.partitions import PartitionWatch
from partitiond.ports.profiling import ProfileRunner

MESSAGE_VERSION: Final = 1
"""Version of the messages between a control plane and agents. It grows when a message that readers
need changes; fields that are added do not count."""


@dataclasses.dataclass(frozen=True, slots=True)
class AgentFacts:
    """What a host says of itself.

    Attributes:
        name: the host's own; `Device.host` of its devices, and `EngineLaunch.host` of its engines.
        partitiond_version: of the agent.
        engine_version: of the installed engine; empty if there is none or it is not known yet.
        engine_memory_bytes: memory for engines; None if its CPU device says it, or nobody does.
        utc: its wall clock, ISO 8601 UTC.
        ray_version: of Ray as it is installed there; empty without Ray.
        host_id: made when the host joined first, kept in its state folder; empty if it never did.
        peers_address: where its proxy serves those of other hosts: `10.0.0.5:6387`, or `unix:` and
            a path; empty for nowhere.
    """

    name: str
    partitiond_version: str = ""
    engine_version: str = ""
    engine_memory_bytes: int | None = None
    utc: str = ""
    host_id: str = ""
    ray_version: str = ""
    peers_address: str = ""


class HostAgent(Protocol):
    """Does on one host what the control plane decides."""

    @property
    def name(self) -> str:
        """The host's own name."""
        ...

    @property
    def engines(self) -> EngineRunner:
        """Starts, finds, watches and ends the engines of this host."""
        ...

    @property
    def devices(self) -> DeviceProvider:
        """Finds the devices of this host."""
        ...

    @property
    def gauges(self) -> DeviceGauges | None:
        """Reads the gauges of its devices; None if nothing does."""
        ...

    @property
    def partitions(self) -> PartitionWatch | None:
        """Watches its devices; None if nothing writes to them."""
        ...

    @property
    def profiler(self) -> ProfileRunner:
        """Measures profiles on its devices."""
        ...

    @property
    def models(self) -> ModelResolver:
        """Fetches the files of models to this host."""
        ...

    @property
    def folders(self) -> ModelFolders:
        """Reads and writes the folders of models, to copy them between hosts."""
        ...

    @property
    def proxy(self) -> ProxyControl:
        """The proxy process of this host."""
        ...

    @property
    def heard_at(self) -> float | None:
        """Monotonic seconds of its last word, whatever that was; None before the first one."""
        ...

    def facts(self) -> AgentFacts:
        """Return what the host says of itself, as last known. Returns at once."""
        ...

    def engine_problem(self) -> EngineUnavailableError | None:
        """Return why no engine of the kind "vllm" can start here, or None. May block.

        Raises SilentError: it is not known.
        """
        ...
