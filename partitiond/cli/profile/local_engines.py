"""Runs engines in this process, without a daemon, in partitions as the daemon does."""

import dataclasses
from typing import TYPE_CHECKING

from partitiond.core.hardware.partition import Partition
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.devices.partitions import partition_of
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.partitioned import PartitionedRunner
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.gpu_host import GpuHost, gpu_host

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


class _Remembering(ProcessEngineRunner):
    """Remembers its engines, so that an interrupted one leaves nothing on the disk."""

    started: list[EngineHandle]

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        handle = await super().start(launch)
        self.started.append(handle)
        return handle


@dataclasses.dataclass(frozen=True, slots=True)
class LocalEngines:
    """The runner of engines in this process, and the devices they run on.

    Attributes:
        runner: makes the engines' partitions and gives them back.
        started: handles of all engines that were started.
    """

    host: GpuHost
    runner: ProcessEngineRunner | PartitionedRunner
    started: list[EngineHandle]

    async def held(self) -> list[tuple[str, Partition]]:
        """Partitions of engines that run already, such as those that a daemon left running.

        The first call also undoes what an earlier run left on devices.
        """
        found = [(h.launch.replica_id, partition_of(h.launch)) for h in await self.runner.find()]
        return [(name, partition) for name, partition in found if partition is not None]

    async def discard(self) -> None:
        """Remove what is left on disk of engines that were stopped."""
        for handle in self.started:
            await self.runner.discard(handle)


def local_engines(settings: "Settings", environment: EngineEnvironment | None) -> LocalEngines:
    """Make them as the settings say; the caller holds the state folder's lock.

    Args:
        settings: everything that can be set.
        environment: the engine's; None if only simulated engines are started.

    Raises:
        DeviceError: a device journal or a simulated host cannot be read.
    """
    host = gpu_host(settings)
    runner = _Remembering(
        settings.run_dir,
        environment,
        cache_dir=settings.cache_dir / "compiled",
        allow_unknown_version=settings.engine.allow_unknown_version,
        simulated_host=settings.gpu.simulated_host,
    )
    runner.started = []
    partitions = host.partitions
    made = runner if partitions is None else PartitionedRunner(runner, partitions)
    return LocalEngines(host, made, runner.started)
