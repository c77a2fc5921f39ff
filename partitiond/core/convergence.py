"""Convergence: how far the host is on its way to run a plan, and what keeps it. A pure function.

A replica of the plan is served only by an engine that was started as the plan wants it
(`core.plan.same_engine`, as the reconciler has it). An engine that merely has the replica's name,
because the replica moves or changes, is on its way out, and the plan runs only once it is gone.

- A replica that failed `HOPELESS_FAILURES` times in a row, whose files could not be fetched so
  often, that is withheld (`core.obstacles`), or whose device is broken or gone has failed. The
  daemon goes on trying; who waits is told of it, but only once nothing else is on its way.
- An old engine whose model has a failed replica stays, so that somebody serves the model: nobody
  waits for its end.
- A replica of a model that is to sleep is where it should be, whatever its engine does.
- What a device that cannot be seen holds is not known: its replicas wait, for as long as it takes.
"""

import dataclasses
import enum
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.device_room import holds, key_of
from partitiond.core.observation import (
    ALLOCATING,
    HOPELESS_FAILURES,
    LIVE,
    Observation,
    ObservedReplica,
    ReconcilePolicy,
    Unknown,
)
from partitiond.core.obstacles import Obstacle, ObstacleKind
from partitiond.core.plan import Placement, Plan, same_engine
from partitiond.core.reconcile import awaiting_restart, current_engines
from partitiond.core.replica import ReplicaState
from partitiond.core.room import fits


class Standing(enum.StrEnum):
    """Where one replica is on the way to what the plan wants of it."""

    WAITING = "waiting"
    """It is wanted, and its engine does not start yet."""
    STARTING = "starting"
    """Its engine starts or wakes."""
    SERVING = "serving"
    ASLEEP = "asleep"
    """Its model is to sleep: nobody waits for it."""
    LEAVING = "leaving"
    """An engine that the plan does not want, until nothing of it is left."""
    STAYING = "staying"
    """An engine that the plan does not want, and that serves because its replacement failed."""
    FAILED = "failed"


class Cause(enum.StrEnum):
    """What a failure is about."""

    NONE = ""
    ENGINE = "engine"
    """The engine does not start, or ends again and again; or cannot be ended."""
    FILES = "files"
    DEVICE = "device"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaProgress:
    """One replica that is not yet where the plan wants it, or an engine that has to leave.

    Attributes:
        why: what it waits for, or what failed, as the rest of a sentence about it.
        seconds: whole seconds since its engine came into this state; None without an engine.
        cause: what a failure is about.
    """

    replica_id: str
    model: str
    device_id: str
    standing: Standing
    why: str
    seconds: int | None = None
    cause: Cause = Cause.NONE


class PlanState(enum.StrEnum):
    """How far a plan is."""

    CONVERGING = "converging"
    CONVERGED = "converged"
    """Every replica serves as the plan wants it, or sleeps, and nothing else is left."""
    FAILED = "failed"
    """Some replicas failed; all others are where the plan wants them."""
    SUPERSEDED = "superseded"
    """Another plan was applied."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replaced:
    """What took a plan's place.

    Attributes:
        plan_id: of the plan that is applied now.
        actor: who asked for it; empty where the daemon did it by itself.
        same: it wants the same engines.
    """

    plan_id: str
    actor: str = ""
    same: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Ahead:
    """What the daemon is about to do by itself.

    Attributes:
        planning: a plan is being made, or due.
        measuring: id of the profile job that a plan waits for; empty where it waits for none.
        waiting_plan_id: of a plan that waits for `apply`; empty where none does.
        note: why there is no plan to apply, or what waits, in one sentence.
    """

    planning: bool = False
    measuring: str = ""
    waiting_plan_id: str = ""
    note: str = ""


NOTHING_AHEAD: Final = Ahead()


@dataclasses.dataclass(frozen=True, slots=True)
class Convergence:
    """How far a plan is.

    Attributes:
        plan_id: empty where no plan is applied.
        wanted: its replicas.
        serving: those of them whose engine serves as the plan wants it.
        asleep: those whose model is to sleep.
        fraction: 0..1, of all that has to start and to leave.
        why: what is waited for, or what went wrong, in one sentence; empty once it has converged.
        replicas: those that are neither serving nor asleep, and engines that leave: failures
            first, then what moves, then what waits.
        replaced: by what, where it is superseded.
        ahead: what the daemon is about to do by itself.
        still_seconds: whole seconds in which nothing of all this has changed.
        last_event: greatest id of an event by then.
    """

    plan_id: str
    state: PlanState
    wanted: int
    serving: int
    asleep: int
    fraction: float
    why: str
    replicas: tuple[ReplicaProgress, ...] = ()
    replaced: Replaced | None = None
    ahead: Ahead = NOTHING_AHEAD
    still_seconds: int = 0
    last_event: int = 0

    @property
    def failures(self) -> tuple[ReplicaProgress, ...]:
        """The replicas that failed."""
        return tuple(r for r in self.replicas if r.standing is Standing.FAILED)

    @property
    def picture(self) -> object:
        """What of it changes only when something happens: all but how long things take."""
        parts = tuple((r.replica_id, r.standing, r.why) for r in self.replicas)
        return self.plan_id, self.state, self.serving, self.asleep, parts


NOTHING_APPLIED: Final = Convergence("", PlanState.CONVERGED, 0, 0, 0, 1.0, "")


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """What is known of the files of a form that are not there.

    Attributes:
        failures: fetches that failed in a row.
        progress: what the fetch says, or why the last one failed.
    """

    failures: int = 0
    progress: str = ""


_NO_FILES: Final = Files()
_AWAKE: Final[Mapping[str, int]] = {}
_NO_FETCHES: Final[Mapping[str, Files]] = {}
_NO_PROGRESS: Final[Mapping[tuple[str, str], str]] = {}
_NO_FAULTS: Final[Mapping[str, str]] = {}
_NO_OBSTACLES: Final[Mapping[str, Obstacle]] = {}
_PENDING: Final = frozenset({Standing.WAITING, Standing.STARTING, Standing.LEAVING})
_ORDER: Final = (
    Standing.FAILED,
    Standing.STARTING,
    Standing.WAITING,
    Standing.LEAVING,
    Standing.STAYING,
)
_DONE: Final = {Standing.STARTING: 0.5, Standing.WAITING: 0.0, Standing.FAILED: 0.0}
"""How much of its way a replica of the plan has behind it."""
_LEFT: Final = {ReplicaState.DRAINING: 1 / 3, ReplicaState.STOPPING: 2 / 3}
"""How much of its way an engine that leaves has behind it, by its state."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What else is known, in words.

    Attributes:
        files: of forms whose files are not there (`Observation.not_ready`), by form.
        progress: last line of an engine that starts, by (replica id, generation).
        faults: what happened to a broken device, by its id.
        obstacles: what keeps a model from running, by its name.
    """

    files: Mapping[str, Files] = dataclasses.field(default_factory=lambda: _NO_FETCHES)
    progress: Mapping[tuple[str, str], str] = dataclasses.field(
        default_factory=lambda: _NO_PROGRESS
    )
    faults: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_FAULTS)
    obstacles: Mapping[str, Obstacle] = dataclasses.field(default_factory=lambda: _NO_OBSTACLES)


NOTHING_TOLD: Final = Told()


def convergence(
    plan: Plan | None,
    seen: Observation,
    policy: ReconcilePolicy,
    asleep: Mapping[str, int] = _AWAKE,
    told: Told = NOTHING_TOLD,
) -> Convergence:
    """How far the applied plan is.

    Args:
        plan: the applied one; None where nothing is to run.
        seen: the host.
        policy: the reconciler's bounds.
        asleep: level of sleep of the models that are to sleep, by name.
        told: what else is known.
    """
    wanted = plan.wanted if plan is not None else ()
    current = current_engines(wanted, seen.replicas, asleep)
    here = _Look(wanted, seen, policy, asleep, told, current, dict(seen.devices))
    found = [_standing(p, current.get(p.replica_id), here) for p in wanted]
    failed = {
        p.model for p, at in zip(wanted, found, strict=True) if at.standing is Standing.FAILED
    }
    placed = [
        _progress(p, _without_hope(p, at, failed, here), here)
        for p, at in zip(wanted, found, strict=True)
    ]
    leaving = [
        (replica, _leaves(replica, here, stays=replica.placement.model in failed))
        for replica in here.outgoing()
    ]
    open_ = [p for p in placed if p.standing not in (Standing.SERVING, Standing.ASLEEP)]
    rest = sorted([*open_, *(p for _, p in leaving)], key=lambda p: _ORDER.index(p.standing))
    done = math.fsum(_DONE.get(p.standing, 1.0) for p in placed)
    going = [(r, p) for r, p in leaving if p.standing is Standing.LEAVING]
    left = math.fsum(_LEFT.get(r.state, 0.0) for r, _ in going)
    total = len(placed) + len(going)
    state = _state(rest)
    return Convergence(
        plan_id=plan.id if plan is not None else "",
        state=state,
        wanted=len(placed),
        serving=sum(p.standing is Standing.SERVING for p in placed),
        asleep=sum(p.standing is Standing.ASLEEP for p in placed),
        fraction=(done + left) / total if total else 1.0,
        why=_why(rest, state),
        replicas=tuple(rest),
    )


def superseded(plan_id: str, replaced: Replaced) -> Convergence:
    """A plan that is not applied any more."""
    by = f", which {replaced.actor} applied" if replaced.actor else ""
    why = f"{plan_id} was replaced by {replaced.plan_id}{by}"
    return Convergence(plan_id, PlanState.SUPERSEDED, 0, 0, 0, 0.0, why, replaced=replaced)


def replaced_by(old: Plan, new: Plan, actor: str) -> Replaced:
    """What took the place of a plan, and whether it wants just the same engines."""
    wanted = {placement.replica_id: placement for placement in old.wanted}
    same = len(wanted) == len(new.wanted) and all(
        p.replica_id in wanted and same_engine(wanted[p.replica_id], p) for p in new.wanted
    )
    return Replaced(new.id, actor, same)


def settling(now: Convergence, ahead: Ahead, problem: str) -> Convergence:
    """The applied plan's convergence with what the daemon is about to do by itself.

    It is not over while a plan is being made; a plan that waits for a measurement, or for somebody
    to apply it, may take for ever and keeps nobody.

    Args:
        now: of the applied plan.
        ahead: what is about to be done.
        problem: why the loop does not get on; empty while it does.
    """
    state, why = now.state, now.why
    if ahead.planning and not ahead.measuring:
        state, why = PlanState.CONVERGING, why or "a plan is being made"
    if problem and state is PlanState.CONVERGING:
        why = f"the daemon cannot look after its engines: {problem}"
    return dataclasses.replace(now, state=state, why=why, ahead=ahead)


def _state(rest: Iterable[ReplicaProgress]) -> PlanState:
    standings = {progress.standing for progress in rest}
    if standings & _PENDING:
        return PlanState.CONVERGING
    return PlanState.FAILED if Standing.FAILED in standings else PlanState.CONVERGED


def _why(rest: Sequence[ReplicaProgress], state: PlanState) -> str:
    if state is PlanState.FAILED:
        return "; ".join(f"{p.replica_id} {p.why}" for p in rest if p.standing is Standing.FAILED)
    pending = next((p for p in rest if p.standing in _PENDING), None)
    return f"{pending.replica_id} {pending.why}" if pending is not None else ""


@dataclasses.dataclass(frozen=True, slots=True)
class _At:
    """Where one replica of the plan is, and what for.

    Attributes:
        for_room: it waits for the room of engines on its device that the plan does not want.
    """

    standing: Standing
    why: str
    cause: Cause = Cause.NONE
    for_room: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """What one call looks at.

    Attributes:
        current: the engine that fulfils each wanted placement, by replica id.
        room: what all engines of a device may take together, by its id.
    """

    wanted: Sequence[Placement]
    seen: Observation
    policy: ReconcilePolicy
    asleep: Mapping[str, int]
    told: Told
    current: Mapping[str, ObservedReplica]
    room: Mapping[str, "int | Unknown"]

    def outgoing(self) -> Iterator[ObservedReplica]:
        """Engines that hold something, and that the plan does not want."""
        return iter(self.unwanted(r for r in self.seen.replicas if r.state in LIVE))

    def live_on(self, device_id: str) -> list[ObservedReplica]:
        """Engines that hold something of a device."""
        return [
            r for r in self.seen.replicas if r.state in LIVE and r.placement.device_id == device_id
        ]

    def unwanted(self, replicas: Iterable[ObservedReplica]) -> list[ObservedReplica]:
        """Those of them that fulfil no placement of the plan."""
        kept = {key_of(replica) for replica in self.current.values()}
        return [r for r in replicas if key_of(r) not in kept]

    def age(self, replica: ObservedReplica) -> int:
        """Whole seconds in its state."""
        return max(0, int(self.seen.now - replica.state_since))


def _progress(placement: Placement, at: _At, here: _Look) -> ReplicaProgress:
    """Where one replica of the plan is, for everybody else."""
    engine = here.current.get(placement.replica_id)
    return ReplicaProgress(
        placement.replica_id,
        placement.model,
        placement.device_id,
        at.standing,
        at.why,
        here.age(engine) if engine is not None else None,
        at.cause,
    )


def _standing(placement: Placement, engine: ObservedReplica | None, here: _Look) -> _At:
    if placement.model in here.asleep:
        return _At(Standing.ASLEEP, "sleeps")
    serves = engine is not None and engine.state is ReplicaState.SERVING and not engine.ending
    if serves and placement.device_id not in here.seen.faulted:  # there it is about to be ended
        return _At(Standing.SERVING, "serves")
    failed = _failed(placement, engine, here)
    if failed is not None:
        return _At(Standing.FAILED, *failed)
    if engine is None:
        return _waits(placement, here)
    if engine.ending:
        return _At(Standing.WAITING, "starts again once what is left of it is gone")
    if engine.state is ReplicaState.STARTING:
        line = here.told.progress.get(key_of(engine), "")
        return _At(Standing.STARTING, f"starts: {line}" if line else "starts")
    return _At(Standing.STARTING, "wakes")


def _failed(
    placement: Placement, engine: ObservedReplica | None, here: _Look
) -> tuple[str, Cause] | None:
    """What went wrong for good with a replica; None where it may still come."""
    device_id = placement.device_id
    if device_id in here.seen.faulted:
        what = here.told.faults.get(device_id, "it is broken")
        return f"cannot run on its device: {what}", Cause.DEVICE
    if device_id not in here.room:
        return "cannot run: its device is not there any more", Cause.DEVICE
    files = here.told.files.get(placement.form, _NO_FILES)
    if placement.form in here.seen.not_ready and files.failures >= HOPELESS_FAILURES:
        return f"has no files: {files.progress}", Cause.FILES
    last = engine or awaiting_restart(placement, here.seen.replicas)
    if last is not None and last.failures >= HOPELESS_FAILURES:
        return f"failed {last.failures} times in a row: {_reason(last)}", Cause.ENGINE
    if engine is None and placement.replica_id in here.seen.withheld:
        return _withheld(here.told.obstacles.get(placement.model))
    return None


def _withheld(obstacle: Obstacle | None) -> tuple[str, Cause]:
    """Why nothing of a replica is started."""
    if obstacle is None:
        return "is not started", Cause.ENGINE
    files = obstacle.kind is ObstacleKind.FILES_MISSING
    why = obstacle.reason.partition("\n")[0]
    return f"is not started: {why}", Cause.FILES if files else Cause.ENGINE


def _reason(replica: ObservedReplica) -> str:
    """The first line of its last error, and the line of its log that led to it."""
    # Of an end during its start two parts of the daemon tell, of which one names the replica.
    error = replica.last_error.removeprefix(f"{replica.replica_id} did not start: ")
    lines = [line.strip() for line in error.splitlines()[:2]]
    return " ".join(lines) or "nobody knows why"


def _waits(placement: Placement, here: _Look) -> _At:
    """Why a replica has no engine yet."""
    seen, waiting = here.seen, Standing.WAITING
    if placement.form in seen.not_ready:
        progress = here.told.files.get(placement.form, _NO_FILES).progress
        return _At(
            waiting, f"waits for its files: {progress}" if progress else "waits for its files"
        )
    free = here.room[placement.device_id]
    if isinstance(free, Unknown):
        return _At(waiting, f"waits until its device can be seen: {free.reason}")
    record = awaiting_restart(placement, seen.replicas)
    if record is not None and record.state is ReplicaState.FAILED:
        return _At(waiting, f"failed and is started again soon: {_reason(record)}")
    return _waits_for_room(placement, free, here)


def _waits_for_room(placement: Placement, free_bytes: int, here: _Look) -> _At:
    waiting, there = Standing.WAITING, here.live_on(placement.device_id)
    leases = [lease for lease in here.seen.leases if lease.device_id == placement.device_id]
    if not fits(placement.partition, leases, free_bytes):
        return _At(waiting, "waits until a profile job gives its place back")
    busy = [r.replica_id for r in there if r.state in ALLOCATING]
    measuring = here.seen.measuring.count(placement.device_id)
    if len(busy) + measuring >= here.policy.max_starting:
        return _At(waiting, f"starts after {', '.join(busy) or 'the engine of a profile job'}")
    if not fits(placement.partition, [*leases, *(holds(r) for r in there)], free_bytes):
        old = _names(r.replica_id for r in here.unwanted(there))
        if old:
            return _At(waiting, f"waits for the room of {old}", for_room=True)
        return _At(waiting, "waits for room on its device")
    return _At(waiting, "waits for its turn to start")


def _without_hope(placement: Placement, at: _At, failed: Container[str], here: _Look) -> _At:
    """A replica that waits for the room of engines that stay has failed as well: another replica of
    their model failed, and they are the last that serve it.
    """
    if not at.for_room:
        return at
    there = here.live_on(placement.device_id)
    olds = here.unwanted(there)
    if not all(
        r.placement.model in failed and r.state is ReplicaState.SERVING for r in olds
    ) or any(r.ending or r.state in ALLOCATING for r in there):
        return at
    names = _names(r.replica_id for r in olds)
    why = f"has no room: {names} serves on there, because a replica of its model failed"
    return _At(Standing.FAILED, why, Cause.ENGINE)


def _names(replica_ids: Iterable[str]) -> str:
    return ", ".join(sorted(set(replica_ids)))


def _leaves(replica: ObservedReplica, here: _Look, *, stays: bool) -> ReplicaProgress:
    """Where an engine is that the plan does not want.

    Args:
        stays: a replica of its model failed.
    """
    standing, why, cause = Standing.LEAVING, "is ended", Cause.NONE
    if replica.stuck:
        standing, cause = Standing.FAILED, Cause.ENGINE
        why = f"cannot be ended: {_reason(replica)}"
    elif replica.state is ReplicaState.DRAINING:
        count = replica.in_flight
        requests = "its requests" if count is None else f"{count} request{'s' * (count != 1)}"
        why = f"drains: finishes {requests}"
    elif replica.state is ReplicaState.SERVING and not replica.ending:
        if stays:
            standing, why = Standing.STAYING, "serves on, because its replacement failed"
        else:
            why = "serves on until its replacement does"
    placement = replica.placement
    return ReplicaProgress(
        replica.replica_id,
        placement.model,
        placement.device_id,
        standing,
        why,
        here.age(replica),
        cause,
    )


__all__ = [
    "NOTHING_AHEAD",
    "NOTHING_APPLIED",
    "NOTHING_TOLD",
    "Ahead",
    "Cause",
    "Convergence",
    "Files",
    "PlanState",
    "Replaced",
    "ReplicaProgress",
    "Standing",
    "Told",
    "convergence",
    "replaced_by",
    "settling",
    "superseded",
]
