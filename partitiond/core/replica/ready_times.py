"""Predicts when a model will serve again, for waiting requests and Retry-After. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.device_room import has_turn
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
        cores: host cores for starts, by device id (`Observation.start_cores`).
    """

    seconds: Mapping[str, float]
    backoff_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cores: Mapping[str, int] = dataclasses.field(default_factory=dict)


def ready_times(
    desired: Sequence[Placement], replicas: Sequence[ObservedReplica], starts: Starts, now: float
) -> dict[str, float]:
    """Predict when each model without a serving replica should have one, by model.

    Models that serve or sleep are left out, and so are models without a measured start. On each
    device engines start in the order of `desired`, several at a time where they may.
    """
    other = {r.placement.model for r in replicas if r.state in _SERVES_OR_RESTS}
    out = [p for p in desired if p.model not in other and p.replica_id in starts.seconds]
    own = grouped(replicas, lambda replica: replica.replica_id)
    there = grouped(replicas, lambda replica: replica.placement.device_id)
    found: dict[str, float] = {}
    turns: dict[str, _Turns] = {}
    for placement in out:
        device_id = placement.device_id
        if device_id not in turns:
            turns[device_id] = _turns(device_id, there.get(device_id, ()), starts, now)
        mine = own.get(placement.replica_id, ())
        at = _own_start(placement, mine, starts, now)
        if at is None:
            pause = _failed_until(placement, mine, starts)
            if pause is None:
                continue
            at = max(turns[device_id].next(placement), pause) + starts.seconds[placement.replica_id]
            turns[device_id].changing.append((at, placement))
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


@dataclasses.dataclass(slots=True)
class _Turns:
    """The turns to start on one device.

    Attributes:
        opens_at: before this time no further engine starts.
        changing: engines that start, and when each should have done so.
        cores: host cores for starts.
    """

    opens_at: float
    changing: list[tuple[float, Placement]]
    cores: int

    def next(self, placement: Placement) -> float:
        """Take the first turn of an engine, which no later one overtakes; return when it is."""
        ends = sorted(at for at, _ in self.changing if at > self.opens_at)
        self.opens_at = next(
            time
            for time in (self.opens_at, *ends)
            if has_turn(placement, [p for at, p in self.changing if at > time], self.cores)
        )
        return self.opens_at


def _turns(device_id: str, there: Iterable[ObservedReplica], starts: Starts, now: float) -> _Turns:
    """Return the turns on a device beside the engines that start or drain there now."""
    free, changing = now, []
    for replica in there:
        if replica.state is ReplicaState.STARTING and replica.replica_id in starts.seconds:
            ready_at = _after(replica.state_since, starts.seconds[replica.replica_id], now)
            changing.append((ready_at, replica.placement))
        elif replica.state is ReplicaState.DRAINING:
            # While in_flight is not known it counts as 0: requests are held rather than refused.
            share = (replica.in_flight or 0) / max(1, replica.placement.candidate.batch)
            took = min(1.0, share) * drain_seconds(replica.placement)
            free = max(free, replica.state_since + took)
    return _Turns(free, changing, starts.cores.get(device_id, 0))


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
