"""Watches what engines hold of their shares of a device while they serve; of host memory on a CPU.

A share is a budget, not a wall: if an engine takes more, its neighbours or the next engine that
starts lack memory. The check at the start (`ports.PartitionControl.verify`) does not see what an
engine takes later.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence

from partitiond.controller.journal import Journal
from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.runtime.engines import Engine
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.partition import CpuCores, ShareUse
from partitiond.core.hardware.partition_checks import OUTGROWN_LOOKS, outgrown, tolerance_bytes
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import format_bytes
from partitiond.ports import EngineRunner, PartitionWatch

log = logging.getLogger(__name__)


class MemoryWatch:
    """Knows which engines have outgrown their shares.

    Args:
        runner: tells what engines on a CPU hold.
        engines: returns all engines that the controller knows.

    Attributes:
        outgrown: generations of those engines, until nothing of them is left.
    """

    def __init__(
        self,
        partitions: PartitionWatch | None,
        *,
        runner: EngineRunner,
        engines: Callable[[], Sequence[Engine]],
        journal: Journal,
        policy: ControllerPolicy,
        wake: Callable[[], None],
    ) -> None:
        self._partitions = partitions
        self._runner = runner
        self._at_first: dict[str, int] = {}
        self._engines = engines
        self._journal = journal
        self._policy = policy
        self._wake = wake
        self._held: dict[str, tuple[int, ...]] = {}
        self.outgrown: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look periodically until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._policy.memory_seconds)

    async def look(self) -> None:
        """Look once; note engines that have outgrown their shares, and wake the loop for them."""
        serving = {e.generation for e in self._engines() if e.state is ReplicaState.SERVING}
        try:
            found = [] if self._partitions is None else await self._partitions.shares()
            shares = {share.name: share for share in (*found, *await self._on_cpus(serving))}
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

    async def _on_cpus(self, serving: Collection[str]) -> Sequence[ShareUse]:
        """Return what engines on CPUs hold. It is asked of those alone whose sampled peak is beyond
        their budget: weighing an engine's processes takes a look at each page.

        What an engine held at first its next process would hold, too, so that is no reason to start
        it again; where that was not measured, its KV cache may come on top.
        """
        at_first, self._at_first = self._at_first, {}
        found = []
        for engine in self._engines():
            partition, candidate = engine.placement.partition, engine.placement.candidate
            is_looked_at = engine.generation in serving and isinstance(partition, CpuCores)
            if engine.handle is None or not is_looked_at:
                continue
            peak = self._runner.peak_memory_bytes(engine.handle)
            first = self._at_first[engine.generation] = at_first.get(engine.generation, peak)
            is_measured = candidate.profile_kind is ProfileKind.MEASURED
            later = 0 if is_measured else candidate.kv_cache_bytes
            budget = max(partition.memory_bytes, first + later)
            if peak > budget + tolerance_bytes(budget):
                with contextlib.suppress(PartitiondError):  # not known; it is asked again
                    held = await self._runner.held_bytes(engine.handle)
                    found.append(ShareUse(engine.name, budget, held))
        return found

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
