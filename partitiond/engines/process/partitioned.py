"""Runs engines in partitions: makes each engine's partition first, and gives it back last."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from partitiond.core.errors import DeviceError, EngineError
from partitiond.core.replica.engine import (
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.engines.process.spawn import to_end
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import EngineRunner, PartitionControl
from partitiond.ports.engine import Discards

log = logging.getLogger(__name__)


class PartitionedRunner:
    """Implements `ports.EngineRunner` over a runner and a host's partitions.

    A partition is made before its engine exists and given back once no process of the engine is
    left, so a device never serves an engine that is not in its journal. A partition that a device
    does not give back blocks nothing: it stays journalled, and is tried again.

    Args:
        runner: starts and ends the processes.
        partitions: makes partitions on the devices, and gives them back.
    """

    def __init__(self, runner: EngineRunner, partitions: PartitionControl) -> None:
        self._runner = runner
        self._partitions = partitions
        self._generations: dict[str, str] = {}
        self._settled = False
        self._settling = asyncio.Lock()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Make the partition, then the process. Raises the runner's errors, and DeviceError."""
        try:
            prepared = await to_end(self._partitions.prepare(launch))
            reached(FaultPoint.PARTITION_PREPARED)
            handle = await self._runner.start(prepared)
        except BaseException:
            with contextlib.suppress(DeviceError):  # the partition stays journalled
                await to_end(self._partitions.release(launch))
            raise
        self._generations[launch.replica_id] = handle.generation
        return handle

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        """Wait for the engine; check its partition. Raises StartFailedError, StartTimedOutError."""
        report = await self._runner.wait_ready(handle, deadline_seconds, progress)
        await self._partitions.verify(handle, report)
        return report

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        """Return whether the engine answers for one token within the time."""
        return await self._runner.probe(handle, timeout_seconds)

    async def report(self, handle: EngineHandle) -> EngineReport:
        """Return one scrape of its metrics. Raises EngineError if it cannot be reached."""
        return await self._runner.report(handle)

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Put the engine to sleep; another may then take its memory. Raises EngineError."""
        await self._runner.sleep(handle, level)
        await self._partitions.asleep(handle, level)

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine if its memory is free. Raises EngineError."""
        try:
            await self._partitions.waking(handle)
        except DeviceError as error:
            raise EngineError(error.message, hint=error.hint, facts=error.facts) from error
        await self._runner.wake(handle)
        await self._partitions.asleep(handle, 0)

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        """Return the sleep level; 0 is awake. Raises EngineError without an answer in time."""
        level = await self._runner.sleep_level(handle, timeout_seconds)
        if level:
            await self._partitions.asleep(handle, level)
        return level

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once the process is gone. Its partition is given back by `stop`."""
        return await self._runner.wait_exit(handle)

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """End the engine, then give its partition back. Idempotent; raises the runner's errors."""
        name = handle.launch.replica_id
        if self._generations.get(name, handle.generation) != handle.generation:
            # A newer engine of the same name has the partition of that name.
            return await self._runner.stop(handle, grace_seconds)
        await self._partitions.before_stop(handle)
        ended = await self._runner.stop(handle, grace_seconds)
        self._generations.pop(name, None)
        reached(FaultPoint.PARTITION_RELEASING)
        try:
            await to_end(self._partitions.release(handle.launch))
            reached(FaultPoint.PARTITION_RELEASED)
        except DeviceError as error:
            log.warning("%s left something on %s: %s", name, handle.launch.device_id, error)
        return ended

    async def find(self) -> Sequence[EngineHandle]:
        """Return the running engines; the first call that can also settles the devices with them.

        Raises DeviceError: what the devices hold, and what engines were promised, is not known.
        """
        found = await self._runner.find()
        for handle in found:
            self._generations.setdefault(handle.launch.replica_id, handle.generation)
        async with self._settling:
            if not self._settled:
                for sentence in await self._partitions.settle(found):
                    log.info("%s", sentence)
                self._settled = True
        return found

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return the peak proportional set size of the engine's processes so far (sampled), in
        bytes.
        """
        return self._runner.peak_memory_bytes(handle)

    async def held_bytes(self, handle: EngineHandle) -> int:
        """Return what the engine's processes hold now, in bytes. Raises SilentError."""
        return await self._runner.held_bytes(handle)

    async def discard(self, handle: EngineHandle) -> None:
        """Remove the run folder of an engine that is gone, if the runner keeps such folders."""
        if isinstance(self._runner, Discards):
            await self._runner.discard(handle)
