"""Tracks what one device holds during one call of `reconcile`."""

from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.hardware.partition import Partition
from partitiond.core.hardware.room import fits, overlap
from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import ALLOCATING, ObservedReplica
from partitiond.core.replica.sleep import held
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
        return held(replica.placement, max(1, replica.sleep_level))
    return replica.placement.partition


class DeviceRoom:
    """Room of one device while it is handed out; local to one call, so everything else stays pure.

    Attributes:
        device_id: the device.

    Args:
        device_id: the device.
        free_bytes: that all engines on the device may take together.
        live: the engines that hold something of it.
        leases: what is lent of it to profile jobs.
        max_starting: number of engines, besides those of profile jobs, whose memory may change at a
            time.
    """

    def __init__(
        self,
        device_id: str,
        free_bytes: int,
        live: Sequence[ObservedReplica],
        leases: Sequence[Partition],
        max_starting: int,
    ) -> None:
        self.device_id = device_id
        self._free_bytes = free_bytes
        self._places = max_starting - sum(replica.state in ALLOCATING for replica in live)
        self._held = [*leases, *(holds(r) for r in live)]
        self._staying = [*leases, *(holds(r) for r in live if r.state not in _LEAVING)]
        self._taken: set[str] = set()

    def take(self, placement: Placement) -> bool:
        """Reserve room for a start; False if there is none now."""
        if self._places <= 0 or not fits(placement.partition, self._held, self._free_bytes):
            return False
        self._places -= 1
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
        return self._places <= 0 and fits(placement.partition, self._held, self._free_bytes)

    def put_to_sleep(self, replica: ObservedReplica) -> bool:
        """Reserve one of the `max_starting` places; freed memory counts once the engine sleeps."""
        if replica.placement.device_id != self.device_id or self._places <= 0:
            return False
        self._places -= 1
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
        """Choose outgoing engines to drain so that one sleeper can wake or one placement can start.

        Engines that are `needed` now are never chosen.
        """
        if self._places <= 0:
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
