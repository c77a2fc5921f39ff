"""Asks in the background which devices broke, so that the loop never waits for a driver."""

import asyncio
import logging
from collections.abc import Callable

from partitiond.controller.journal import Journal
from partitiond.controller.limits import ControllerPolicy
from partitiond.core.errors import PartitiondError
from partitiond.ports import PartitionWatch

log = logging.getLogger(__name__)


class FaultWatch:
    """Knows the devices on which all engines are broken now.

    Attributes:
        reasons: what happened and what it takes to recover, by device id.
        problem: why the last look failed; empty if it did not. The known faults stay then: a
            driver that does not answer is no sign of recovery.
    """

    def __init__(
        self,
        partitions: PartitionWatch | None,
        *,
        journal: Journal,
        policy: ControllerPolicy,
        wake: Callable[[], None],
    ) -> None:
        self._partitions = partitions
        self._journal = journal
        self._policy = policy
        self._wake = wake
        self.reasons: dict[str, str] = {}
        self.problem = ""

    async def run(self) -> None:
        """Look periodically until cancelled; returns at once if there are no partitions."""
        while self._partitions is not None:
            await self.look()
            await asyncio.sleep(self._policy.fault_seconds)

    async def look(self) -> None:
        """Ask once, note what changed, and wake the loop for it."""
        if self._partitions is None:
            return
        try:
            found = {fault.device_id: fault.reason for fault in await self._partitions.faults()}
        except PartitiondError as error:
            self._says(str(error))
            return
        except Exception as error:
            # A defect in a driver's adapter must not end the watch over all devices.
            log.exception("looking for faults of devices broke")
            self._says(f"{type(error).__name__}: {error}")
            return
        self._says("")
        self._take(found)

    def _take(self, found: dict[str, str]) -> None:
        before, self.reasons = self.reasons, found
        for device_id, reason in found.items():
            if device_id not in before:
                self._journal.note("device-faulted", device_id, reason)
        for device_id in before.keys() - found.keys():
            self._journal.note("device-recovered", device_id, "engines may run there again.")
        if before.keys() != found.keys():
            self._wake()

    def _says(self, problem: str) -> None:
        if problem and problem != self.problem:
            self._journal.note("faults-unknown", "devices", problem)
        self.problem = problem
