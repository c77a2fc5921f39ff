"""Predicts when a model will serve again, for waiting requests and Retry-After. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState

LONGER: Final = 1.5
"""An overdue start is next expected at this multiple of its last expected duration. Chosen."""


_SERVES_OR_RESTS: Final = frozenset(
    {
        ReplicaState.SERVING,
        ReplicaState.QUIESCING,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Starts:
    """Known durations of starts.

    Attributes:
        seconds: until an engine serves, by replica id; only measured ones.
        backoff_seconds: back-off after the failures of a replica, by replica id.
    """

    seconds: Mapping[str, float]
    backoff_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def ready_times(
    desired: Sequence[Placement], replicas: Sequence[ObservedReplica], starts: Starts, now: float
) -> dict[str, float]:
    """Predict when each model without a serving replica should have one, by model.

    Models that serve or sleep are left out, and so are models without a measured start. On each
    device one engine starts after the other, in the order of `desired`.
    """
    other = {r.placement.model for r in replicas if r.state in _SERVES_OR_RESTS}
    out = [p for p in desired if p.model not in other and p.replica_id in starts.seconds]
    own = grouped(replicas, lambda replica: replica.replica_id)
    there = grouped(replicas, lambda replica: replica.placement.device_id)
    found: dict[str, float] = {}
    free_at: dict[str, float] = {}
    for placement in out:
        device_id = placement.device_id
        mine = own.get(placement.replica_id, ())
        at = _own_start(placement, mine, starts, now)
        if at is None:
            begins = free_at.get(device_id) or _free_at(there.get(device_id, ()), starts, now)
            pause = _failed_until(placement, mine, starts)
            if pause is None:
                continue
            at = max(begins, pause) + starts.seconds[placement.replica_id]
        free_at[device_id] = max(at, free_at.get(device_id, 0.0))
        found[placement.model] = min(at, found.get(placement.model, at))
    return found


def settled(old: Mapping[str, float], new: Mapping[str, float], now: float) -> dict[str, float]:
    """Return the new times, but keep an old time that the new one hardly changes: a table
    that changes at every call is of no use."""
    return {model: _kept(old[model], at, now) if model in old else at for model, at in new.items()}


def _kept(old: float, new: float, now: float) -> float:
    near = abs(new - old) <= max(1.0, 0.25 * (old - now))
    return old if old > now and near else new


def _own_start(
    placement: Placement, own: Iterable[ObservedReplica], starts: Starts, now: float
) -> float | None:
    """Return when the engine that already starts for the placement should be ready; None without
    one.

    Args:
        own: engines of the placement's replica.
    """
    for replica in own:
        if replica.state is ReplicaState.STARTING and same_engine(replica.placement, placement):
            return _after(replica.state_since, starts.seconds[placement.replica_id], now)
    return None


def _after(since: float, seconds: float, now: float) -> float:
    """Return the first future time of the series in which an overdue start is expected."""
    takes = max(seconds, 0.1)
    while since + takes <= now:
        takes *= LONGER
    return since + takes


def _free_at(there: Iterable[ObservedReplica], starts: Starts, now: float) -> float:
    """Return when the last of the engines on one device should have started or drained."""
    free = now
    for replica in there:
        if replica.state is ReplicaState.STARTING and replica.replica_id in starts.seconds:
            free = max(free, _after(replica.state_since, starts.seconds[replica.replica_id], now))
        elif replica.state is ReplicaState.DRAINING:
            # While in_flight is not known it counts as 0: requests are held rather than refused.
            share = (replica.in_flight or 0) / max(1, replica.placement.candidate.batch)
            took = min(1.0, share) * drain_seconds(replica.placement)
            free = max(free, replica.state_since + took)
    return free


def _failed_until(
    placement: Placement, own: Iterable[ObservedReplica], starts: Starts
) -> float | None:
    """Return when the back-off after a failure ends, 0 without one; None after
    `HOPELESS_FAILURES`.

    Args:
        own: engines of the placement's replica.
    """
    for replica in own:
        if replica.state is ReplicaState.FAILED:
            if replica.failures >= HOPELESS_FAILURES:
                return None
            return replica.state_since + starts.backoff_seconds.get(placement.replica_id, 0.0)
    return 0.0
