"""Tracks what one device holds during one call of `reconcile`."""

from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.hardware.partition import Partition
from partitiond.core.hardware.room import fits, overlap
from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.observation import ALLOCATING, ObservedReplica
from partitiond.core.replica.sleep import asleep_partition
from partitiond.core.replica.states import ReplicaState

_LEAVING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.STOPPING})


def key_of(replica: ObservedReplica) -> tuple[str, str]:
    """Return the key that tells engines apart: two engines carry a replica's id while the replica
    moves.
    """
    return replica.replica_id, replica.generation


def holds(replica: ObservedReplica) -> Partition:
    """Return what a live engine holds: its partition, or the sleeping part of it."""
    if replica.state is ReplicaState.SLEEPING:
        return asleep_partition(replica.placement, max(1, replica.sleep_level))
    return replica.placement.partition


def is_known(placement: Placement) -> bool:
    """Return whether it is known what an engine takes: its KV cache has explicit bytes, and the
    rest was measured on such a device, for what runs now.
    """
    candidate = placement.candidate
    measured = candidate.profile_kind is ProfileKind.MEASURED and not candidate.stale
    return measured and candidate.kv_cache_bytes > 0


def has_turn(placement: Placement, changing: Sequence[Placement], cores: int) -> bool:
    """Return whether an engine may start, fall asleep or wake while others of its device do.

    vLLM ends itself if its share of the device is not free when it starts. Each engine finds its
    share if all of them are known and the plan has room for all. Any other engine waits until no
    memory changes. And a start keeps its cores busy: two that share them take twice as long.

    Args:
        placement: of the engine.
        changing: placements of the others.
        cores: host cores for the starts on this device; 0 for one at a time.
    """
    together = [*changing, placement]
    busy = sum(max(1, one.candidate.size.cores) for one in together)
    return not changing or (busy <= cores and all(map(is_known, together)))


class DeviceRoom:
    """Room of one device while it is handed out; local to one call, so everything else stays pure.

    Attributes:
        device_id: the device.

    Args:
        device_id: the device.
        free_bytes: that all engines on the device may take together.
        live: the engines that hold something of it.
        leases: what is lent of it to profile jobs.
        cores: as in `has_turn`.
        measuring: whether a profile job starts its engine there, of which nothing is known.
    """

    def __init__(
        self,
        device_id: str,
        free_bytes: int,
        live: Sequence[ObservedReplica],
        leases: Sequence[Partition],
        *,
        cores: int,
        measuring: bool,
    ) -> None:
        self.device_id = device_id
        self._free_bytes = free_bytes
        self._cores = cores
        self._measuring = measuring
        self._changing = [r.placement for r in live if r.state in ALLOCATING]
        self._awaited = False
        self._held = [*leases, *(holds(r) for r in live)]
        self._staying = [*leases, *(holds(r) for r in live if r.state not in _LEAVING)]
        self._taken: set[str] = set()

    def take(self, placement: Placement) -> bool:
        """Reserve room for a start; False if there is none now, or it is not the engine's turn.
        Then it is nobody's: an engine that has to start alone is not overtaken for ever.
        """
        if not fits(placement.partition, self._held, self._free_bytes):
            return False
        if not self._has_turn(placement):
            self._awaited = True
            return False
        self._changing.append(placement)
        self._held.append(placement.partition)
        self._staying.append(placement.partition)
        self._taken.add(placement.replica_id)
        return True

    def waits_for_its_turn(self, placement: Placement) -> bool:
        """Return whether a start has room here and waits only because too many engines start
        already.
        """
        if placement.device_id != self.device_id or placement.replica_id in self._taken:
            return False
        waits = not self._has_turn(placement)
        return waits and fits(placement.partition, self._held, self._free_bytes)

    def _has_turn(self, placement: Placement) -> bool:
        free = not (self._measuring or self._awaited)
        return free and has_turn(placement, self._changing, self._cores)

    def put_to_sleep(self, replica: ObservedReplica) -> bool:
        """Reserve a turn to fall asleep; freed memory counts once the engine sleeps."""
        if not self._has_turn(replica.placement):
            return False
        self._changing.append(replica.placement)
        return True

    def wake(self, replica: ObservedReplica) -> bool:
        """Reserve the whole partition of a sleeping engine; False if it has no room now."""
        asleep = holds(replica)
        self._held.remove(asleep)
        if self.take(replica.placement):
            self._staying.remove(asleep)
            return True
        self._held.append(asleep)
        return False

    def make_way(
        self,
        missing: Sequence[Placement],
        sleeping: Sequence[ObservedReplica],
        outgoing: Sequence[ObservedReplica],
        needed: Collection[tuple[str, str]] = (),
    ) -> set[tuple[str, str]]:
        """Choose outgoing engines to drain so that one sleeper can wake or one placement can start,
        while no memory changes here.

        Engines that are `needed` now are never chosen.
        """
        if self._changing or self._measuring:
            return set()
        candidates = [
            replica
            for replica in outgoing
            if replica.placement.device_id == self.device_id
            and replica.state is ReplicaState.SERVING
            and key_of(replica) not in needed
        ]
        blocked = [(r.placement, [holds(r)]) for r in sleeping] + [(p, []) for p in missing]
        for placement, own in blocked:
            if placement.device_id != self.device_id or placement.replica_id in self._taken:
                continue
            victims = self._victims(placement, own, candidates)
            if victims is not None:
                return {key_of(replica) for replica in victims}
        return set()

    def _victims(
        self, placement: Placement, own: list[Partition], candidates: list[ObservedReplica]
    ) -> list[ObservedReplica] | None:
        """Choose few engines to drain, those in the same place first; None if all are not enough.

        `own` is what the placement's own sleeping engine holds there already.
        """
        staying = list(self._staying)
        for partition in own:
            staying.remove(partition)
        victims: list[ObservedReplica] = []
        in_place_first = sorted(
            candidates, key=lambda r: not overlap(r.placement.partition, placement.partition)
        )
        for replica in (None, *in_place_first):
            if replica is not None:
                staying.remove(replica.placement.partition)
                victims.append(replica)
            if fits(placement.partition, staying, self._free_bytes):
                return victims
        return None
