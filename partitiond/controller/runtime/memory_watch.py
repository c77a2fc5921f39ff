"""Watches what engines hold of their shares of a device while they serve.

A share is a budget, not a wall: if an engine takes more, its neighbours or the next engine that
starts lack memory. The check at the start (`ports.PartitionControl.verify`) does not see what an
engine takes later.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from partitiond.controller.journal import Journal
from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.runtime.engines import Engine
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.hardware.partition_checks import OUTGROWN_LOOKS, outgrown, tolerance_bytes
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import format_bytes
from partitiond.ports import PartitionWatch

log = logging.getLogger(__name__)


class MemoryWatch:
    """Knows which engines have outgrown their shares.

    Args:
        engines: returns all engines that the controller knows.

    Attributes:
        outgrown: generations of those engines, until nothing of them is left.
    """

    def __init__(
        self,
        partitions: PartitionWatch | None,
        *,
        engines: Callable[[], Sequence[Engine]],
        journal: Journal,
        policy: ControllerPolicy,
        wake: Callable[[], None],
    ) -> None:
        self._partitions = partitions
        self._engines = engines
        self._journal = journal
        self._policy = policy
        self._wake = wake
        self._held: dict[str, tuple[int, ...]] = {}
        self.outgrown: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look periodically until cancelled; returns at once if there are no partitions."""
        while self._partitions is not None:
            await self.look()
            await asyncio.sleep(self._policy.memory_seconds)

    async def look(self) -> None:
        """Look once; note engines that have outgrown their shares, and wake the loop for them."""
        if self._partitions is None:
            return
        serving = {e.generation for e in self._engines() if e.state is ReplicaState.SERVING}
        try:
            shares = {share.name: share for share in await self._partitions.shares()}
        except PartitiondError as error:
            log.warning("what engines hold of their shares cannot be told: %s", error)
            return
        except Exception:
            # A defect in a driver's adapter must not end the watch over all engines.
            log.exception("looking at what engines hold of their shares broke")
            return
        live = [engine for engine in self._engines() if engine.live]
        self.outgrown &= {engine.generation for engine in live}
        # An engine that slept, or was not there, when the look began is looked at the next time.
        self._held = {key: held for key, held in self._held.items() if key in serving}
        for engine in live:
            share = shares.get(engine.name)
            if share is not None and engine.generation in serving - self.outgrown:
                self._take(engine, share)

    def _take(self, engine: Engine, share: ShareUse) -> None:
        held = (*self._held.get(engine.generation, ()), share.held_bytes)[-OUTGROWN_LOOKS:]
        self._held[engine.generation] = held
        tolerance = tolerance_bytes(share.budget_bytes)
        if not outgrown(share.budget_bytes, held, tolerance):
            return
        self.outgrown |= {engine.generation}
        self._journal.note(
            "engine-outgrew",
            engine.name,
            f"holds {format_bytes(share.held_bytes)} of its device, where its share is "
            f"{format_bytes(share.budget_bytes)} and {format_bytes(tolerance)} more are tolerated: "
            "it finishes what runs and is started again, before its neighbours lack memory.",
        )
        self._wake()
