"""Looks up the engines of an observation by place, instead of going through all for each. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.observation import LIVE, ObservedReplica


@dataclasses.dataclass(frozen=True, slots=True)
class SeenEngines:
    """The engines of one observation; each list is in the observation's order.

    Attributes:
        live: engines that hold something of a device, by device id.
        ended: records without a process, by replica id.
    """

    live: Mapping[str, Sequence[ObservedReplica]]
    ended: Mapping[str, Sequence[ObservedReplica]]

    @classmethod
    def of(cls, replicas: Iterable[ObservedReplica]) -> Self:
        """Group them, in one pass."""
        live: list[ObservedReplica] = []
        ended: list[ObservedReplica] = []
        for replica in replicas:
            (live if replica.state in LIVE else ended).append(replica)
        return cls(
            grouped(live, lambda replica: replica.placement.device_id),
            grouped(ended, lambda replica: replica.replica_id),
        )

    def live_on(self, device_id: str) -> Sequence[ObservedReplica]:
        """Return the engines that hold something of a device."""
        return self.live.get(device_id, ())

    def awaiting_restart(self, placement: Placement) -> ObservedReplica | None:
        """Return the newest failed or stopped record of exactly this placement; its back-off
        counts.
        """
        dead = [
            record
            for record in self.ended.get(placement.replica_id, ())
            if same_engine(record.placement, placement)
        ]
        return max(dead, key=lambda record: (record.state_since, record.generation), default=None)
