"""Reconciles the observed host with the desired plan into ordered actions. A pure function.

Invariants (each is a property test):
- once all actions are applied and the host is calm, the next call returns ();
- what could not be observed is `Unknown`, and no action relies on it: nothing starts on a device
  whose room is unknown and nothing there makes way; a drain with an unknown number of requests
  in flight waits for its deadline;
- on a device engines start, fall asleep or wake one at a time, those of profile jobs included, or
  together if it is known what each takes and they share no cores (`device_room.has_turn`);
- engines never overlap in cores, memory slices or SM percent, and together they stay within the
  memory that the device has for engines; partitions leased to a profile job count as taken;
- make-before-break where room allows: a replaced engine drains only once all wanted replicas of its
  model serve, unless a wanted engine cannot start beside it; then the replaced one makes way, for
  one start at a time per device, but not as the last one of its model while another is coming;
- engines start in the order that restores most requests/s per second of starting
  (`core.plan.start_order`), those whose starts failed after the others; an engine that starts after
  too many failures is stopped for another one that waits for its turn;
- no withheld replica is started;
- an engine is stopped only when nothing is in flight or its drain deadline has passed; a draining
  replica gets no request (`routing_from` tells the proxy);
- a replica that failed starts again at once; from the second failure in a row on after
  base x 2^(failures - 2) seconds, capped;
- an engine of a model that is to be asleep falls asleep only when nothing is in flight, however
  long that takes, and is woken only where its whole partition fits; an engine that cannot sleep is
  drained and stopped instead. No engine of such a model is started;
- an engine that has outgrown its share is drained although it is wanted, and started again once
  nothing of it is left; per model this happens to one engine at a time, while no other engine of
  the model comes, leaves or is about to start;
- all engines of a faulted device are ended, and nothing starts, sleeps or wakes there;
- an engine that is not wanted is drained and stopped, but never one that could not be identified
  (only identified engines are in the observation).

A replica keeps its id when it moves, so for a while two engines may carry one replica id. An engine
is therefore identified by (replica id, generation), and every action on an existing engine names
both. An engine *is* the wanted one if `same_engine` holds for what it was started with; every other
engine of that id is on its way out.
"""

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.partition import Partition
from partitiond.core.hardware.room import fits
from partitiond.core.numbers.grouping import by_key, grouped
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.plan.start_order import NO_GAINS, StartGains, start_order
from partitiond.core.replica.device_room import DeviceRoom, holds, key_of
from partitiond.core.replica.observation import (
    HOPELESS_FAILURES,
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    ObservedReplica,
    QuiesceReplica,
    ReconcilePolicy,
    SleepReplica,
    StartEngine,
    StopEngine,
    StopReason,
    Unknown,
    WakeReplica,
)
from partitiond.core.replica.seen_engines import SeenEngines
from partitiond.core.replica.sleep import stays
from partitiond.core.replica.states import ENDING, ReplicaState

_STAYING: Final = (
    ReplicaState.SERVING,
    ReplicaState.WAKING,
    ReplicaState.STARTING,
    ReplicaState.QUIESCING,
    ReplicaState.FALLING_ASLEEP,
    ReplicaState.SLEEPING,
    ReplicaState.FAILING,
)
"""States of an engine that is not on its way out, the readiest first. One that is FAILING holds its
place, in which it is started again."""
_SERVES_NOBODY: Final = frozenset(
    {
        ReplicaState.STARTING,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
    }
)
"""States in which an engine that is not wanted is ended without a drain."""
_COMING: Final = frozenset({ReplicaState.SERVING, ReplicaState.STARTING, ReplicaState.WAKING})
_READYING: Final = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})
_LEAVING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.STOPPING})
_SLOW: Final = frozenset({ReplicaState.FALLING_ASLEEP, ReplicaState.WAKING})
_NOBODY: Final[Mapping[str, int]] = {}
_MAX_DOUBLINGS: Final = 30
"""2^30 seconds is beyond any cap; keeps the power from overflowing after very many failures."""


def backoff_seconds(failures: int, policy: ReconcilePolicy) -> float:
    """Return how long a replica waits after its last failure: not at all after the first one in a
    row, then base x 2^(failures - 2), capped.
    """
    if failures <= 1:
        return 0.0
    doublings = min(failures - 2, _MAX_DOUBLINGS)
    return min(policy.backoff_max_seconds, policy.backoff_base_seconds * 2.0**doublings)


def restart_seconds(record: ObservedReplica, policy: ReconcilePolicy) -> float:
    """Return how long a failed replica waits for its restart. Starts that failed before a pause
    (`core.replica.obstacles`) count: one more start is tried, and not two.
    """
    return backoff_seconds(max(record.failures, record.failed_starts), policy)


def failures_after(failures: int, served_seconds: float, policy: ReconcilePolicy) -> int:
    """Return the count after one more failure; it restarts once an engine served for the longest
    delay.

    Otherwise an engine that dies once a day would stay at the longest delay for ever.
    """
    return 1 if served_seconds >= policy.backoff_max_seconds else failures + 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Pass:
    """The inputs of one call, and what follows from them.

    Attributes:
        asleep: level of sleep, by model that is to sleep.
        current: the engine that fulfils each wanted placement, by replica id.
        kept: the keys of these engines.
        outgoing: engines that are not wanted and not yet on their way out.
        gains: what starting an engine is worth.
        engines: those of the observation, by their places.
        held_back: replicas that are withheld or lack their files.
        not_ready: as `Observation.not_ready`.
    """

    desired: tuple[Placement, ...]
    seen: Observation
    policy: ReconcilePolicy
    asleep: Mapping[str, int]
    current: Mapping[str, ObservedReplica]
    kept: frozenset[tuple[str, str]]
    outgoing: tuple[ObservedReplica, ...]
    gains: StartGains
    engines: SeenEngines
    held_back: frozenset[str]
    not_ready: frozenset[str]


def reconcile(
    desired: tuple[Placement, ...],
    observation: Observation,
    policy: ReconcilePolicy,
    asleep: Mapping[str, int] = _NOBODY,
    gains: StartGains = NO_GAINS,
) -> tuple[Action, ...]:
    """Return the next actions, so that the host comes to run `desired` and nothing else.

    The actions may be applied in order and at once; then observe and call again.

    Args:
        desired: every replica that is to have an engine, awake or asleep.
        observation: the host.
        policy: bounds.
        asleep: level of sleep of the models that are to sleep, by name.
        gains: what starting an engine is worth, and how long it takes.
    """
    current = current_engines(desired, observation.replicas, asleep)
    kept = frozenset(key_of(replica) for replica in current.values())
    outgoing = tuple(
        replica
        for replica in observation.replicas
        if replica.state in _STAYING and key_of(replica) not in kept
    )
    here = _Pass(
        desired=desired,
        seen=observation,
        policy=policy,
        asleep=asleep,
        current=current,
        kept=kept,
        outgoing=outgoing,
        gains=gains,
        engines=SeenEngines.of(observation.replicas),
        held_back=frozenset((*observation.withheld, *observation.without_files)),
        not_ready=frozenset(observation.not_ready),
    )
    begun, making_way, yielding = _begin(here)
    return (*_forgets(here), *_stops(here, yielding), *_drains(here, making_way, begun), *begun)


def current_engines(
    desired: tuple[Placement, ...],
    replicas: tuple[ObservedReplica, ...],
    asleep: Mapping[str, int],
) -> dict[str, ObservedReplica]:
    """Return the engine that fulfils each wanted placement, by replica id: readiest first, oldest
    first.

    If a model is to sleep, an engine that cannot sleep fulfils nothing; at zero no engine does.
    """
    wanted = {placement.replica_id: placement for placement in desired}
    found: dict[str, ObservedReplica] = {}
    oldest_first = sorted(replicas, key=lambda r: (r.state_since, r.generation))
    for state in _STAYING:
        for replica in oldest_first:
            placement = wanted.get(replica.replica_id)
            if (
                replica.state is state
                and placement is not None
                and replica.replica_id not in found
                and same_engine(replica.placement, placement)
                and stays(asleep.get(placement.model, 0), replica.can_sleep)
            ):
                found[replica.replica_id] = replica
    return found


def _forgets(here: _Pass) -> list[Action]:
    """Forget records without a process that no restart will take up."""
    replicas = here.seen.replicas
    awaiting = {
        key_of(record)
        for placement in here.desired
        if placement.replica_id not in here.current
        and (record := here.engines.awaiting_restart(placement)) is not None
    }
    return [
        ForgetReplica(replica.replica_id, replica.generation)
        for replica in replicas
        if replica.state not in LIVE and key_of(replica) not in awaiting
    ]


def _stops(here: _Pass, yielding: set[tuple[str, str]]) -> list[Action]:
    """End engines that are drained, late, broken, yielding, or not wanted and not serving."""
    unwanted = {key_of(replica) for replica in here.outgoing}
    actions: list[Action] = []
    for replica in here.seen.replicas:
        reason = _stop_reason(replica, key_of(replica) in unwanted, here)
        if reason is None and key_of(replica) in yielding:
            reason = StopReason.YIELDS
        if reason is not None:
            grace = here.policy.stop_grace_seconds
            actions.append(StopEngine(replica.replica_id, replica.generation, reason, grace))
    return actions


def _stop_reason(replica: ObservedReplica, unwanted: bool, here: _Pass) -> StopReason | None:
    policy, state = here.policy, replica.state
    if state not in LIVE or state in ENDING:
        return None
    if replica.placement.device_id in here.seen.faulted:
        return StopReason.FAILED
    age = here.seen.now - replica.state_since
    if state in _SERVES_NOBODY and unwanted:
        return StopReason.NOT_WANTED
    # The task that starts or wakes the engine keeps the deadline and diagnoses; this is a backstop.
    overdue = age >= policy.start_deadline_seconds + policy.stop_grace_seconds
    if state is ReplicaState.STARTING and overdue:
        return StopReason.START_DEADLINE
    if state in _SLOW and overdue:
        return StopReason.FAILED
    if state is ReplicaState.DRAINING:
        if replica.in_flight == 0:
            return StopReason.DRAINED
        return StopReason.DRAIN_DEADLINE if age >= policy.drain_deadline_seconds else None
    return None


def _drains(here: _Pass, making_way: set[tuple[str, str]], begun: Sequence[Action]) -> list[Action]:
    """Drain serving engines that are not wanted, once their replacements serve or to make way; and
    engines that take memory from their neighbours.
    """
    incomplete = _incomplete(here)
    faulted = here.seen.faulted
    leaving = {
        key_of(replica)
        for replica in here.outgoing
        if replica.state is ReplicaState.QUIESCING
        or (
            replica.state is ReplicaState.SERVING
            and (replica.placement.model not in incomplete or key_of(replica) in making_way)
        )
    }
    changing = {r.placement.model for r in here.outgoing if key_of(r) in leaving}
    changing |= {action.placement.model for action in begun if isinstance(action, StartEngine)}
    leaving |= _outgrown(here, changing)
    return [
        DrainReplica(replica.replica_id, replica.generation)
        for replica in here.seen.replicas
        if key_of(replica) in leaving
        if replica.placement.device_id not in faulted
    ]


def _outgrown(here: _Pass, changing: set[str]) -> set[tuple[str, str]]:
    """Return engines that hold more than their share and leave now. What makes one engine of a
    model grow makes its other engines grow as well, so they leave one after the other and the model
    is served. A model that is to sleep gives its memory back by falling asleep.

    Args:
        here: the pass.
        changing: models of which an engine is started or drained in this pass.
    """
    found: dict[str, tuple[str, str]] = {}
    for replica in here.seen.replicas:
        if replica.generation in here.seen.outgrown and _serves(replica):
            found.setdefault(replica.placement.model, key_of(replica))
    if not found:
        return set()
    under_way = {
        replica.placement.model
        for replica in here.seen.replicas
        if replica.state in _READYING | _LEAVING | ENDING
        or (replica.state in LIVE and replica.placement.device_id in here.seen.faulted)
    }
    missing = {p.model for p in here.desired if p.replica_id not in here.current}
    # If a model's missing replica cannot start now, it is not known how long that lasts.
    stay = under_way | changing | (missing - _blocked(here)) | here.asleep.keys()
    return {key for model, key in found.items() if model not in stay}


def _incomplete(here: _Pass) -> frozenset[str]:
    """Return models of which a replica that is wanted awake does not serve."""
    return frozenset(
        placement.model
        for placement in here.desired
        if placement.model not in here.asleep
        and (
            (replica := here.current.get(placement.replica_id)) is None
            or replica.state is not ReplicaState.SERVING
        )
    )


def _may_start(placement: Placement, here: _Pass) -> bool:
    """Return whether only room is missing: the replica is wanted awake, files on disk, back-off
    over.
    """
    if placement.model in here.asleep or placement.form in here.not_ready:
        return False
    if placement.replica_id in here.held_back or _held_by_outgrown(placement, here):
        return False
    record = here.engines.awaiting_restart(placement)
    if record is None or record.state is not ReplicaState.FAILED:
        return True
    return here.seen.now - record.state_since >= restart_seconds(record, here.policy)


def _held_by_outgrown(placement: Placement, here: _Pass) -> bool:
    """Return whether an engine that outgrew the replica's place still holds that place."""
    return bool(here.seen.outgrown) and any(
        replica.replica_id == placement.replica_id and replica.generation in here.seen.outgrown
        for replica in here.engines.live_on(placement.device_id)
    )


def _begin(here: _Pass) -> tuple[list[Action], set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the actions that quiesce, put to sleep, wake and start engines now; the engines that
    have to leave before another engine can start; and the starting engines that yield their turn.

    Falling asleep frees memory, so it precedes waking; waking is quick, so it precedes
    starting.
    """
    seen = here.seen
    missing = _missing(here)
    actions = [*_quiesces(here)]
    rooms: list[tuple[DeviceRoom, list[ObservedReplica]]] = []
    # A pass over all engines for each device would be one over all pairs of them.
    missing_on = grouped(missing, lambda placement: placement.device_id)
    current_on = grouped(here.current.values(), lambda replica: replica.placement.device_id)
    outgoing_on = grouped(here.outgoing, lambda replica: replica.placement.device_id)
    leased_on = grouped(seen.leases, lambda lease: lease.device_id)
    for device_id, free in seen.devices:
        if isinstance(free, Unknown) or device_id in seen.faulted:
            continue
        room = DeviceRoom(
            device_id,
            free,
            here.engines.live_on(device_id),
            leased_on.get(device_id, ()),
            cores=seen.start_cores.get(device_id, 0),
            measuring=device_id in seen.measuring,
        )
        actions += _sleeps(here, room, current_on.get(device_id, ()))
        sleeping = _to_wake(here, current_on.get(device_id, ()))
        actions += [
            WakeReplica(replica.replica_id, replica.generation)
            for replica in sleeping
            if room.wake(replica)
        ]
        starting = [p for p in missing_on.get(device_id, ()) if room.take(p)]
        actions += [StartEngine(p) for p in starting]
        rooms.append((room, sleeping))
    begun = [action.placement.model for action in actions if isinstance(action, StartEngine)]
    needed = _needed(here, begun)
    making_way: set[tuple[str, str]] = set()
    for room, sleeping in rooms:
        wanted, old = missing_on.get(room.device_id, ()), outgoing_on.get(room.device_id, ())
        making_way |= room.make_way(wanted, sleeping, old, needed)
    return actions, making_way, _yielding(here, missing, [room for room, _ in rooms])


def _yielding(
    here: _Pass, missing: tuple[Placement, ...], rooms: Iterable[DeviceRoom]
) -> set[tuple[str, str]]:
    """Return engines that start after too many failed starts while others that failed less wait
    only for their turn: a start that hangs until its deadline must not keep them waiting.
    """
    hopeless = [
        replica
        for replica in here.seen.replicas
        if replica.state is ReplicaState.STARTING and replica.failed_starts >= HOPELESS_FAILURES
    ]
    found: set[tuple[str, str]] = set()
    if not hopeless:
        return found
    waiting = grouped(
        (p for p in missing if _failed_starts(p, here) < HOPELESS_FAILURES), lambda p: p.device_id
    )
    for room in rooms:
        if any(room.waits_for_its_turn(p) for p in waiting.get(room.device_id, ())):
            found.update(
                key_of(replica)
                for replica in hopeless
                if replica.placement.device_id == room.device_id
            )
    return found


def _failed_starts(placement: Placement, here: _Pass) -> int:
    record = here.engines.awaiting_restart(placement)
    return record.failed_starts if record is not None else 0


def _missing(here: _Pass) -> tuple[Placement, ...]:
    """Return placements that lack nothing but room, in the order in which to start; failed starts
    last.

    An engine that is on its way out for its own replacement counts as if it still served. Otherwise
    another one would make way for its model, now the neediest, before the first start.
    """
    missing = [p for p in here.desired if p.replica_id not in here.current and _may_start(p, here)]
    ids = {placement.replica_id for placement in missing}
    serving: dict[str, float] = {}
    replaced: dict[str, float] = {}
    for replica in here.seen.replicas:
        model, capacity = replica.placement.model, replica.placement.candidate.capacity_req_per_s
        old = key_of(replica) not in here.kept
        makes_way = replica.state in _LEAVING and old and replica.replica_id in ids
        if replica.state in _COMING or makes_way:
            serving[model] = serving.get(model, 0.0) + capacity
            if old:
                replaced[replica.replica_id] = replaced.get(replica.replica_id, 0.0) + capacity
    order = start_order(missing, here.gains, serving, replaced)
    return tuple(sorted(order, key=lambda placement: _failed_starts(placement, here)))


def _needed(here: _Pass, begun: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return the last serving engine of each model of which another engine is starting, or cannot
    start now: these engines do not leave to free memory for another model.

    While anything is under way, these are the last engines of all models: a replica that waits for
    room may get it without an outage.
    """
    seen = here.seen
    coming = {r.placement.model for r in here.current.values() if r.state in _READYING}
    coming.update(begun)
    incomplete, blocked = _incomplete(here), _blocked(here)
    under_way = (
        bool(coming)
        or any(r.state in _LEAVING | ENDING for r in seen.replicas)
        or any(r.placement.model not in incomplete for r in here.outgoing)
    )
    serving = by_key((r.placement.model, r) for r in seen.replicas if _serves(r))
    return frozenset(
        key_of(engines[0])
        for model, engines in serving.items()
        if (under_way or model in coming or model in blocked) and len(engines) == 1
    )


def _blocked(here: _Pass) -> frozenset[str]:
    """Return models of which a replica cannot start now, whatever makes way for it: its files are
    missing, its start failed just now, it is withheld, its device is broken, gone or not
    observable; or it has no room beside the last engine of another such model.
    """
    room = {
        device_id: free
        for device_id, free in here.seen.devices
        if not isinstance(free, Unknown) and device_id not in here.seen.faulted
    }
    missing = [
        p for p in here.desired if p.model not in here.asleep and p.replica_id not in here.current
    ]
    blocked = {p.model for p in missing if p.device_id not in room or not _may_start(p, here)}
    while blocked:
        more = {
            p.model
            for p in missing
            if p.model not in blocked
            and not fits(p.partition, _staying(p.device_id, blocked, here), room[p.device_id])
        }
        if not more:
            break
        blocked |= more
    return frozenset(blocked)


def _staying(device_id: str, blocked: Container[str], here: _Pass) -> list[Partition]:
    """Return partitions held on a device even after every engine that may make way has done so."""
    return [
        *(lease for lease in here.seen.leases if lease.device_id == device_id),
        *(
            holds(r)
            for r in here.engines.live_on(device_id)
            if key_of(r) in here.kept or (r.placement.model in blocked and _serves(r))
        ),
    ]


def _serves(replica: ObservedReplica) -> bool:
    return replica.state is ReplicaState.SERVING


def _quiesces(here: _Pass) -> list[Action]:
    """Quiesce engines that are to sleep; let quiescing engines that are wanted serve again."""
    actions: list[Action] = []
    for replica in here.current.values():
        if replica.placement.device_id in here.seen.faulted:
            continue
        to_sleep = replica.placement.model in here.asleep
        if to_sleep and replica.state is ReplicaState.SERVING:
            actions.append(QuiesceReplica(replica.replica_id, replica.generation))
        if not to_sleep and replica.state is ReplicaState.QUIESCING:
            actions.append(WakeReplica(replica.replica_id, replica.generation))
    return actions


def _sleeps(here: _Pass, room: DeviceRoom, current: Iterable[ObservedReplica]) -> list[Action]:
    return [
        SleepReplica(replica.replica_id, replica.generation, here.asleep[replica.placement.model])
        for replica in current
        if replica.state is ReplicaState.QUIESCING
        and replica.in_flight == 0
        and replica.placement.model in here.asleep
        and room.put_to_sleep(replica)
    ]


def _to_wake(here: _Pass, current: Iterable[ObservedReplica]) -> list[ObservedReplica]:
    """Return those sleeping engines whose models are wanted awake."""
    return [
        replica
        for replica in current
        if replica.state is ReplicaState.SLEEPING and replica.placement.model not in here.asleep
    ]
