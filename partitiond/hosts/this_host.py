"""Wires the agent of the host that this process runs on (`ports.HostAgent`), in this process."""

import dataclasses
from typing import Final

from partitiond import __version__
from partitiond.core.errors import DeviceError, EngineUnavailableError, SilentError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.devices.gauges import HostGauges
from partitiond.devices.nvml import used_bytes
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.install.environment import Variant
from partitiond.engines.install.finder import EngineFinder, HostResolver
from partitiond.engines.process.engine_user import EngineUser, group_warning
from partitiond.engines.process.partitioned import PartitionedRunner
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.warm import MODULES
from partitiond.gpu_host import GpuHost
from partitiond.models.copies import CopiedFolders
from partitiond.platform.clock import SystemClock
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.ports import (
    DeviceGauges,
    DeviceProvider,
    EngineRunner,
    ModelFolders,
    ModelResolver,
    ProfileRunner,
    ProxyControl,
)
from partitiond.ports.cluster import HostPlace
from partitiond.ports.host_agent import AgentFacts
from partitiond.ports.partitions import PartitionWatch
from partitiond.profiler.runner import Profiler
from partitiond.proxy.process import CONTROL_SOCKET
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.settings.schema import Settings
from partitiond.settings.service import proxy_options, service_options, traced

VARIANT_SECONDS: Final = 2.0
"""Time that the start waits for the driver, to know which engine this host needs."""
NO_PLACE: Final = HostPlace()
"""Of a host alone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ThisHost:
    """Implements `ports.HostAgent` by the adapters of this host.

    Attributes:
        processes: runs the processes of `engines`; close it at the end.
        finder: knows the engine that is installed here.
        engine_memory_bytes: memory for engines, if no CPU device says it.
        engine_user: the user that engines run as; None for this process's.
        host_id: as that of `AgentFacts`.
        place: in a cluster.
    """

    name: str
    engines: EngineRunner
    processes: ProcessEngineRunner
    devices: DeviceProvider
    gauges: DeviceGauges | None
    partitions: PartitionWatch | None
    profiler: ProfileRunner
    models: ModelResolver
    folders: ModelFolders
    proxy: ProxyControl
    finder: EngineFinder
    engine_memory_bytes: int | None
    engine_user: EngineUser | None
    host_id: str = ""
    place: HostPlace = NO_PLACE

    @property
    def heard_at(self) -> None:
        """None: this process hears itself."""

    def facts(self) -> AgentFacts:
        """Return what this host says of itself."""
        return AgentFacts(
            name=self.name,
            partitiond_version=__version__,
            engine_version=self.finder.version(),
            engine_memory_bytes=self.engine_memory_bytes,
            utc=SystemClock().utc_iso(),
            host_id=self.host_id,
            ray_version=self.place.ray_version,
            peers_address=self.place.peers_address,
        )

    def engine_problem(self) -> EngineUnavailableError | None:
        """Return why no engine of the kind "vllm" can start here, or None."""
        return self.finder.problem()

    def group_warning(self, group: str) -> str:
        """Return why a group's engines do not run as its user here; empty if they do."""
        return group_warning(self.engine_user, group)


def this_host(
    settings: Settings,
    host: GpuHost,
    *,
    host_id: str = "",
    place: HostPlace = NO_PLACE,
    head: bool = False,
) -> ThisHost:
    """Wire engines, profiler, models and proxy over the devices of this host.

    Args:
        place: what the host has of its cluster.
        head: the control plane runs here: folders that users name may be copied to other hosts.
            Another host gives away only what lies below its folder of models.
    """
    devices = host.devices
    finder = EngineFinder(settings, _variant(settings, devices))
    user = _engine_user(settings)
    processes = _processes(settings, finder, user)
    engines: EngineRunner = processes
    if host.partitions is not None:
        engines = PartitionedRunner(processes, host.partitions)
    profiler = Profiler(
        engines,
        clock=SystemClock(),
        start_deadline_seconds=settings.engine.start_deadline_seconds,
        stop_grace_seconds=settings.engine.stop_grace_seconds,
        device_used_bytes=lambda uuid: devices.looks.ask(uuid, lambda: used_bytes(uuid)),
        telemetry=HostTelemetry(looks=devices.looks),
    )
    return ThisHost(
        name=devices.host,
        engines=engines,
        processes=processes,
        devices=devices,
        gauges=HostGauges(nvml=settings.gpu.enabled, cpu=settings.cpu.enabled),
        partitions=host.partitions,
        profiler=profiler,
        models=HostResolver(settings, finder),
        folders=CopiedFolders(settings.models_dir, anywhere=head),
        proxy=_proxy(settings, place),
        finder=finder,
        engine_memory_bytes=service_options(settings).planning.host_memory_bytes,
        engine_user=user,
        host_id=host_id,
        place=place,
    )


def _processes(
    settings: Settings, finder: EngineFinder, user: EngineUser | None
) -> ProcessEngineRunner:
    return ProcessEngineRunner(
        settings.run_dir,
        finder,
        cache_dir=settings.cache_dir / "compiled",
        allow_unknown_version=settings.engine.allow_unknown_version,
        simulated_host=settings.gpu.simulated_host,
        traces_endpoint=str(settings.tracing.endpoint or ""),
        user=user,
        warm=MODULES if settings.engine.warm_starts else {},
    )


def _engine_user(settings: Settings) -> EngineUser | None:
    launcher = settings.engine.launcher
    if launcher is None:
        return None
    return EngineUser(launcher, settings.engine.launcher_cache, settings.models_dir)


def _variant(settings: Settings, devices: DeviceProvider) -> Variant:
    if settings.engine.variant != "auto":
        return settings.engine.variant
    try:
        found = DeadlineCalls(VARIANT_SECONDS).ask("the devices", devices.discover)
    except SilentError:
        # A driver that hangs is installed; without one, the library says so at once.
        return "cuda" if settings.gpu.enabled else "cpu"
    except DeviceError:
        return "cpu"  # the loop reports why devices cannot be seen
    return "cuda" if any(device.kind is DeviceKind.GPU for device in found) else "cpu"


def _proxy(settings: Settings, place: HostPlace) -> ProxyProcess:
    proxy = settings.proxy
    options = dataclasses.replace(
        traced(proxy_options(proxy), settings.tracing),
        peers_address=place.peers_address,
        peers_tls=place.peers_tls,
    )
    return ProxyProcess(
        host=proxy.host,
        port=proxy.port,
        state_dir=settings.state_dir / "proxy",
        control_socket=settings.run_dir / CONTROL_SOCKET,
        options=options,
    )
