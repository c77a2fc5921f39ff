"""When a model that serves nobody should serve again: for who waits, and for Retry-After. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.outage import drain_seconds
from partitiond.core.plan import Placement, same_engine
from partitiond.core.replica import ReplicaState

LONGER: Final = 1.5
"""A start that takes longer than others did is expected after so much of their time, and again."""


_AT_REST: Final = frozenset(
    {
        ReplicaState.DROWSY,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Starts:
    """What is known of starts.

    Attributes:
        seconds: until an engine serves, by replica id; only what was measured.
        backoff_seconds: pause after the failures of a replica, by replica id.
    """

    seconds: Mapping[str, float]
    backoff_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def ready_times(
    desired: Sequence[Placement], replicas: Sequence[ObservedReplica], starts: Starts, now: float
) -> dict[str, float]:
    """The time at which each model without a serving replica should have one, by model.

    Left out are models that serve or sleep, and those of whose starts nothing was measured. On
    each device one engine starts after the other, in the order of `desired`.
    """
    other = {r.placement.model for r in replicas if _serves(r) or r.state in _AT_REST}
    out = [p for p in desired if p.model not in other and p.replica_id in starts.seconds]
    found: dict[str, float] = {}
    free_at: dict[str, float] = {}
    for placement in out:
        device_id = placement.device_id
        at = _own_start(placement, replicas, starts, now)
        if at is None:
            begins = free_at.get(device_id) or _free_at(device_id, replicas, starts, now)
            pause = _failed_until(placement, replicas, starts)
            if pause is None:
                continue
            at = max(begins, pause) + starts.seconds[placement.replica_id]
        free_at[device_id] = max(at, free_at.get(device_id, 0.0))
        found[placement.model] = min(at, found.get(placement.model, at))
    return found


def settled(old: Mapping[str, float], new: Mapping[str, float], now: float) -> dict[str, float]:
    """The new times, but for those that say nearly what the old ones do: a table that changes with
    every look is of no use to anybody."""
    return {model: _kept(old[model], at, now) if model in old else at for model, at in new.items()}


def _kept(old: float, new: float, now: float) -> float:
    near = abs(new - old) <= max(1.0, 0.25 * (old - now))
    return old if old > now and near else new


def _serves(replica: ObservedReplica) -> bool:
    return replica.state is ReplicaState.SERVING and not replica.ending


def _own_start(
    placement: Placement, replicas: Iterable[ObservedReplica], starts: Starts, now: float
) -> float | None:
    """When the engine of a placement that starts already should be ready."""
    for replica in replicas:
        if (
            replica.state is ReplicaState.STARTING
            and replica.replica_id == placement.replica_id
            and same_engine(replica.placement, placement)
        ):
            return _after(replica.state_since, starts.seconds[placement.replica_id], now)
    return None


def _after(since: float, seconds: float, now: float) -> float:
    """The first time to come of those at which it is looked for."""
    takes = max(seconds, 0.1)
    while since + takes <= now:
        takes *= LONGER
    return since + takes


def _free_at(
    device_id: str, replicas: Iterable[ObservedReplica], starts: Starts, now: float
) -> float:
    """When nothing starts or drains on a device any more."""
    free = now
    for replica in replicas:
        if replica.placement.device_id != device_id:
            continue
        if replica.state is ReplicaState.STARTING and replica.replica_id in starts.seconds:
            free = max(free, _after(replica.state_since, starts.seconds[replica.replica_id], now))
        elif replica.state is ReplicaState.DRAINING:
            # As long as nobody has counted, requests are held rather than refused.
            share = (replica.in_flight or 0) / max(1, replica.placement.candidate.batch)
            took = min(1.0, share) * drain_seconds(replica.placement)
            free = max(free, replica.state_since + took)
    return free


def _failed_until(
    placement: Placement, replicas: Iterable[ObservedReplica], starts: Starts
) -> float | None:
    """When its pause after a failure is over; None where it fails again and again."""
    for replica in replicas:
        own = replica.replica_id == placement.replica_id
        if own and replica.state is ReplicaState.FAILED:
            if replica.failures >= HOPELESS_FAILURES:
                return None
            return replica.state_since + starts.backoff_seconds.get(placement.replica_id, 0.0)
    return 0.0
