"""Reconcile: desired plan and observed host in, ordered actions out. A pure function.

Invariants (each is a property test):
- once all actions are applied and the host is calm, the next call returns ();
- what could not be observed is `Unknown`, and no action rests on it: nothing starts on a device
  whose room is unknown and nothing there makes way; a drain with an unknown number of requests
  in flight waits for its deadline;
- at most `max_starting` engines start at a time per device;
- engines never overlap: not in cores, memory slices or SM percent, and together they stay within
  the memory the device has for engines; what is leased to a profile job is taken, too;
- make before break where room allows: an engine that is replaced drains only once all wanted
  replicas of its model serve, unless a wanted engine cannot start beside it; then it makes way,
  for one start at a time per device;
- an engine is stopped only when nothing is in flight or its drain deadline has passed; a draining
  replica gets no request (`routing_from` says so to the proxy);
- a replica that failed starts again after base x 2^(failures - 1) seconds, capped;
- an engine that nobody asked for is drained and stopped, never one that could not be identified
  (only identified engines are in the observation).

Names: a replica keeps its id when it moves, so for a while two engines may carry one replica id.
An engine is therefore identified by (replica id, generation), and every action on an engine that
exists names both. An engine *is* the wanted one when `same_engine` holds for what it was started
with; every other engine of that id is on its way out.
"""

from collections.abc import Iterable
from typing import Final

from partitiond.core.observation import (
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    ObservedReplica,
    ReconcilePolicy,
    StartEngine,
    StopEngine,
    StopReason,
    Unknown,
)
from partitiond.core.partition import Partition
from partitiond.core.plan import Placement, same_engine
from partitiond.core.replica import ReplicaState
from partitiond.core.room import fits, overlap

__all__ = [
    "LIVE",
    "Action",
    "DrainReplica",
    "ForgetReplica",
    "Observation",
    "ObservedReplica",
    "ReconcilePolicy",
    "StartEngine",
    "StopEngine",
    "StopReason",
    "Unknown",
    "backoff_seconds",
    "failures_after",
    "reconcile",
]

_LEAVING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.STOPPING})
_MAX_DOUBLINGS: Final = 30
"""2^30 seconds is beyond any cap; keeps the power from overflowing after very many failures."""


def backoff_seconds(failures: int, policy: ReconcilePolicy) -> float:
    """How long a replica waits after its last failure: base x 2^(failures - 1), capped."""
    if failures <= 0:
        return 0.0
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return min(policy.backoff_max_seconds, policy.backoff_base_seconds * 2.0**doublings)


def failures_after(failures: int, served_seconds: float, policy: ReconcilePolicy) -> int:
    """The count after one more failure; it starts anew once an engine served for the longest delay.

    Otherwise an engine that dies once a day would end at the longest delay for ever.
    """
    return 1 if served_seconds >= policy.backoff_max_seconds else failures + 1


def reconcile(
    desired: tuple[Placement, ...],
    observation: Observation,
    policy: ReconcilePolicy,
) -> tuple[Action, ...]:
    """What to do next so that the host comes to run `desired`, and nothing else.

    The actions may be applied in order and at once; then observe and call again.
    """
    current = _current(desired, observation.replicas)
    kept = {_key(replica) for replica in current.values()}
    outgoing = [
        replica
        for replica in observation.replicas
        if replica.state in (ReplicaState.STARTING, ReplicaState.SERVING)
        and _key(replica) not in kept
    ]
    starts, making_way = _starts(desired, observation, current, outgoing, policy)
    return (
        *_forgets(desired, observation.replicas, current),
        *_stops(observation, outgoing, policy),
        *_drains(desired, current, outgoing, making_way, policy),
        *starts,
    )


def _key(replica: ObservedReplica) -> tuple[str, str]:
    return replica.replica_id, replica.generation


def _current(
    desired: tuple[Placement, ...], replicas: tuple[ObservedReplica, ...]
) -> dict[str, ObservedReplica]:
    """The engine that fulfils each wanted placement, by replica id: serving first, oldest first."""
    wanted = {placement.replica_id: placement for placement in desired}
    found: dict[str, ObservedReplica] = {}
    for state in (ReplicaState.SERVING, ReplicaState.STARTING):
        for replica in sorted(replicas, key=lambda r: (r.state_since, r.generation)):
            placement = wanted.get(replica.replica_id)
            if (
                replica.state is state
                and placement is not None
                and replica.replica_id not in found
                and same_engine(replica.placement, placement)
            ):
                found[replica.replica_id] = replica
    return found


def _awaiting_restart(
    placement: Placement, replicas: Iterable[ObservedReplica]
) -> ObservedReplica | None:
    """The newest failed or stopped record of just this placement, whose back-off counts."""
    dead = [
        replica
        for replica in replicas
        if replica.state not in LIVE
        and replica.replica_id == placement.replica_id
        and same_engine(replica.placement, placement)
    ]
    return max(dead, key=lambda replica: (replica.state_since, replica.generation), default=None)


def _forgets(
    desired: tuple[Placement, ...],
    replicas: tuple[ObservedReplica, ...],
    current: dict[str, ObservedReplica],
) -> list[Action]:
    """Records without a process that no restart will take up."""
    awaiting = {
        _key(record)
        for placement in desired
        if placement.replica_id not in current
        and (record := _awaiting_restart(placement, replicas)) is not None
    }
    return [
        ForgetReplica(replica.replica_id, replica.generation)
        for replica in replicas
        if replica.state not in LIVE and _key(replica) not in awaiting
    ]


def _stops(
    observation: Observation, outgoing: list[ObservedReplica], policy: ReconcilePolicy
) -> list[Action]:
    """Engines to end now: drained, out of time, or not wanted before they ever served."""
    unwanted = {_key(replica) for replica in outgoing}
    actions: list[Action] = []
    for replica in observation.replicas:
        reason = _stop_reason(replica, observation.now, _key(replica) in unwanted, policy)
        if reason is not None:
            actions.append(
                StopEngine(
                    replica.replica_id, replica.generation, reason, policy.stop_grace_seconds
                )
            )
    return actions


def _stop_reason(
    replica: ObservedReplica, now: float, unwanted: bool, policy: ReconcilePolicy
) -> StopReason | None:
    age = now - replica.state_since
    if replica.state is ReplicaState.STARTING:
        if unwanted:
            return StopReason.NOT_WANTED
        # Who starts the engine keeps the deadline and has a diagnosis; this is the backstop.
        overdue = age >= policy.start_deadline_seconds + policy.stop_grace_seconds
        return StopReason.START_DEADLINE if overdue else None
    if replica.state is ReplicaState.DRAINING:
        if replica.in_flight == 0:
            return StopReason.DRAINED
        return StopReason.DRAIN_DEADLINE if age >= policy.drain_deadline_seconds else None
    return None


def _drains(
    desired: tuple[Placement, ...],
    current: dict[str, ObservedReplica],
    outgoing: list[ObservedReplica],
    making_way: set[tuple[str, str]],
    policy: ReconcilePolicy,
) -> list[Action]:
    """Serving engines that are not wanted: after their replacements serve, or to make way."""
    incomplete = {
        placement.model
        for placement in desired
        if (replica := current.get(placement.replica_id)) is None
        or replica.state is not ReplicaState.SERVING
    }
    return [
        DrainReplica(replica.replica_id, replica.generation, policy.drain_deadline_seconds)
        for replica in outgoing
        if replica.state is ReplicaState.SERVING
        and (replica.placement.model not in incomplete or _key(replica) in making_way)
    ]


def _may_start(placement: Placement, observation: Observation, policy: ReconcilePolicy) -> bool:
    """Whether nothing but room is missing: files on disk, back-off over."""
    if placement.form in observation.not_ready:
        return False
    record = _awaiting_restart(placement, observation.replicas)
    if record is None or record.state is not ReplicaState.FAILED:
        return True
    return observation.now - record.state_since >= backoff_seconds(record.failures, policy)


def _starts(
    desired: tuple[Placement, ...],
    observation: Observation,
    current: dict[str, ObservedReplica],
    outgoing: list[ObservedReplica],
    policy: ReconcilePolicy,
) -> tuple[list[Action], set[tuple[str, str]]]:
    """Engines to start now, and the outgoing ones that must make way for the next start."""
    serving = {r.placement.model for r in observation.replicas if r.state is ReplicaState.SERVING}
    missing = sorted(
        (
            placement
            for placement in desired
            if placement.replica_id not in current and _may_start(placement, observation, policy)
        ),
        key=lambda placement: placement.model in serving,  # models without any replica first
    )
    actions: list[Action] = []
    making_way: set[tuple[str, str]] = set()
    for device_id, free in observation.devices:
        if isinstance(free, Unknown):
            continue
        here = _DeviceRoom(device_id, free, observation)
        for placement in missing:
            if placement.device_id == device_id and here.take(placement, policy.max_starting):
                actions.append(StartEngine(placement, policy.start_deadline_seconds))
        making_way |= here.make_way(missing, outgoing, policy.max_starting)
    return actions, making_way


class _DeviceRoom:
    """What one device holds during one call of `reconcile`; local to it, so the rest stays pure."""

    def __init__(self, device_id: str, free_bytes: int, observation: Observation) -> None:
        self._device_id = device_id
        self._free_bytes = free_bytes
        live = [
            replica
            for replica in observation.replicas
            if replica.state in LIVE and replica.placement.device_id == device_id
        ]
        self._live = live
        self._starting = sum(replica.state is ReplicaState.STARTING for replica in live)
        leases = [lease for lease in observation.leases if lease.device_id == device_id]
        self._held: list[Partition] = [*leases, *(r.placement.partition for r in live)]
        self._staying: list[Partition] = [
            *leases,
            *(r.placement.partition for r in live if r.state not in _LEAVING),
        ]
        self._taken: set[str] = set()

    def take(self, placement: Placement, max_starting: int) -> bool:
        """Reserve room for a start; False where there is none now."""
        if self._starting >= max_starting:
            return False
        if not fits(placement.partition, self._held, self._free_bytes):
            return False
        self._starting += 1
        self._held.append(placement.partition)
        self._staying.append(placement.partition)
        self._taken.add(placement.replica_id)
        return True

    def make_way(
        self, missing: list[Placement], outgoing: list[ObservedReplica], max_starting: int
    ) -> set[tuple[str, str]]:
        """The outgoing engines to drain so that one blocked placement can start."""
        if self._starting >= max_starting:
            return set()
        candidates = [
            replica
            for replica in outgoing
            if replica.placement.device_id == self._device_id
            and replica.state is ReplicaState.SERVING
        ]
        for placement in missing:
            if placement.device_id != self._device_id or placement.replica_id in self._taken:
                continue
            victims = self._victims(placement, candidates)
            if victims is not None:
                return {_key(replica) for replica in victims}
        return set()

    def _victims(
        self, placement: Placement, candidates: list[ObservedReplica]
    ) -> list[ObservedReplica] | None:
        """The fewest found that must go, those in the very place first; None when it cannot fit."""
        staying = list(self._staying)
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
