"""Reports how far the host has come in running a plan, and what holds it up. A pure function.

A replica of the plan is served only by an engine that was started as the plan wants it
(`core.plan.record.same_engine`, the reconciler's test). An engine that only has the replica's name,
because the replica moves or changes, is leaving, and must be gone before the plan has converged.

- A replica counts as failed if it failed `HOPELESS_FAILURES` times in a row, if its files could not
  be fetched that often, if it is withheld (`core.replica.obstacles`), or if its device is broken or
  gone. The daemon goes on trying; the failure is reported, but only once nothing else is under way.
- An old engine whose model has a failed replica stays, so that the model is still served:
  convergence does not wait for its end.
- A replica of a model that is to sleep is where it should be, in any state of its engine.
- The contents of a device that cannot be seen are unknown: its replicas wait without a limit.
"""

import dataclasses
import enum
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.room import fits
from partitiond.core.plan.record import Placement, Plan, same_engine
from partitiond.core.replica.device_room import has_turn, holds, key_of
from partitiond.core.replica.observation import (
    ALLOCATING,
    HOPELESS_FAILURES,
    LIVE,
    Observation,
    ObservedReplica,
    ReconcilePolicy,
    Unknown,
)
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.replica.reconcile import current_engines
from partitiond.core.replica.seen_engines import SeenEngines
from partitiond.core.replica.states import ENDING, ReplicaState


class Standing(enum.StrEnum):
    """How far one replica is towards its state in the plan."""

    WAITING = "waiting"
    """The replica is wanted, and its engine has not begun to start."""
    STARTING = "starting"
    """The replica's engine starts or wakes."""
    SERVING = "serving"
    ASLEEP = "asleep"
    """The replica's model is to sleep: convergence does not wait for the replica."""
    LEAVING = "leaving"
    """The plan does not want this engine, and a part of it is still there."""
    STAYING = "staying"
    """The plan does not want this engine, which serves on because its replacement failed."""
    FAILED = "failed"


class Cause(enum.StrEnum):
    """The cause of a failure."""

    NONE = ""
    ENGINE = "engine"
    """The engine does not start, ends again and again, or cannot be ended."""
    FILES = "files"
    DEVICE = "device"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaProgress:
    """One replica that is not yet where the plan wants it, or an engine that has to leave.

    Attributes:
        why: what the replica waits for, or what failed, as the predicate of a sentence about it.
        seconds: whole seconds since its engine came into this state; None without an engine.
        cause: of a failure.
    """

    replica_id: str
    model: str
    device_id: str
    standing: Standing
    why: str
    seconds: int | None = None
    cause: Cause = Cause.NONE


class PlanState(enum.StrEnum):
    """How far a plan has converged."""

    CONVERGING = "converging"
    CONVERGED = "converged"
    """Every replica serves as the plan wants it, or sleeps, and no other engine is left."""
    FAILED = "failed"
    """Some replicas failed; all others are where the plan wants them."""
    SUPERSEDED = "superseded"
    """Another plan was applied."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replaced:
    """The plan that replaced another one.

    Attributes:
        plan_id: of the plan that is applied now.
        actor: who applied this plan; empty if the daemon applied it by itself.
        same: whether this plan wants the same engines as the replaced one.
    """

    plan_id: str
    actor: str = ""
    same: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Ahead:
    """The next steps of the daemon by itself.

    Attributes:
        planning: a plan is being made, or due.
        measuring: id of the profile job that a plan waits for; empty if it waits for none.
        waiting_plan_id: of a plan that waits for `apply`; empty if none does.
        note: why there is no plan to apply, or what waits, in one sentence.
    """

    planning: bool = False
    measuring: str = ""
    waiting_plan_id: str = ""
    note: str = ""


NOTHING_AHEAD: Final = Ahead()


@dataclasses.dataclass(frozen=True, slots=True)
class Convergence:
    """How far a plan has converged.

    Attributes:
        plan_id: empty if no plan is applied.
        wanted: number of the plan's replicas.
        serving: number of replicas whose engine serves as the plan wants it.
        asleep: number of replicas whose model is to sleep.
        fraction: 0..1, over all engines that have to start or to leave.
        why: what is waited for, or what went wrong, in one sentence; empty once converged.
        replicas: replicas that neither serve nor sleep, and engines that leave: failures first,
            then starting ones, then waiting ones.
        replaced: the plan's replacement, if the plan is superseded.
        ahead: the next steps of the daemon by itself.
        still_seconds: whole seconds without a change in all of this.
        last_event: greatest event id at that time.
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
        """The parts that change only when something happens: all but the durations."""
        parts = tuple((r.replica_id, r.standing, r.why) for r in self.replicas)
        return self.plan_id, self.state, self.serving, self.asleep, parts


NOTHING_APPLIED: Final = Convergence("", PlanState.CONVERGED, 0, 0, 0, 1.0, "")


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Known facts about the missing files of a form.

    Attributes:
        failures: fetches that failed in a row.
        progress: progress line of the fetch, or why the last fetch failed.
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
"""Share of its work that a replica of the plan has done, by its standing."""
_LEFT: Final = {ReplicaState.DRAINING: 1 / 3, ReplicaState.STOPPING: 2 / 3}
"""Share of its end that a leaving engine has behind it, by its state."""


@dataclasses.dataclass(frozen=True, slots=True)
class Explanations:
    """Further facts that explain a standing in words.

    Attributes:
        files: of forms whose files are missing (`Observation.not_ready`), by form.
        copies: of replicas whose host lacks the files (`Observation.without_files`), by id.
        progress: last line of an engine that starts, by (replica id, generation).
        faults: what happened to a broken device, by device id.
        obstacles: what keeps a model from running, by model name.
    """

    files: Mapping[str, Files] = dataclasses.field(default_factory=lambda: _NO_FETCHES)
    copies: Mapping[str, Files] = dataclasses.field(default_factory=lambda: _NO_FETCHES)
    progress: Mapping[tuple[str, str], str] = dataclasses.field(
        default_factory=lambda: _NO_PROGRESS
    )
    faults: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_FAULTS)
    obstacles: Mapping[str, Obstacle] = dataclasses.field(default_factory=lambda: _NO_OBSTACLES)


NO_FACTS: Final = Explanations()


def convergence(
    plan: Plan | None,
    seen: Observation,
    policy: ReconcilePolicy,
    asleep: Mapping[str, int] = _AWAKE,
    facts: Explanations = NO_FACTS,
) -> Convergence:
    """Compute how far the applied plan has converged.

    Args:
        plan: the applied plan; None if nothing is to run.
        seen: the host.
        policy: the reconciler's bounds.
        asleep: level of sleep of the models that are to sleep, by name.
        facts: further facts, for the explanations.
    """
    wanted = plan.wanted if plan is not None else ()
    current = current_engines(wanted, seen.replicas, asleep)
    given = _Inputs(
        wanted=wanted,
        seen=seen,
        policy=policy,
        asleep=asleep,
        facts=facts,
        current=current,
        kept=frozenset(key_of(replica) for replica in current.values()),
        room=dict(seen.devices),
        engines=SeenEngines.of(seen.replicas),
        not_ready=frozenset(seen.not_ready),
        without_files=frozenset(seen.without_files),
        withheld=frozenset(seen.withheld),
    )
    found = [_standing(p, current.get(p.replica_id), given) for p in wanted]
    failed = {
        p.model for p, at in zip(wanted, found, strict=True) if at.standing is Standing.FAILED
    }
    placed = [
        _progress(p, _without_hope(p, at, failed, given), given)
        for p, at in zip(wanted, found, strict=True)
    ]
    leaving = [
        (replica, _leaves(replica, given, stays=replica.placement.model in failed))
        for replica in given.outgoing()
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
    """Return the convergence of a plan that is not applied any more."""
    by = f", which {replaced.actor} applied" if replaced.actor else ""
    why = f"{plan_id} was replaced by {replaced.plan_id}{by}"
    return Convergence(plan_id, PlanState.SUPERSEDED, 0, 0, 0, 0.0, why, replaced=replaced)


def replaced_by(old: Plan, new: Plan, actor: str) -> Replaced:
    """Describe the replacement of a plan, and whether both plans want the same engines."""
    wanted = {placement.replica_id: placement for placement in old.wanted}
    same = len(wanted) == len(new.wanted) and all(
        p.replica_id in wanted and same_engine(wanted[p.replica_id], p) for p in new.wanted
    )
    return Replaced(new.id, actor, same)


def settling(now: Convergence, ahead: Ahead, problem: str) -> Convergence:
    """Add the next steps of the daemon to the applied plan's convergence.

    The plan is converging while another plan is being made. A plan that waits for a measurement, or
    for an operator to apply it, may wait for ever, so convergence does not wait for that plan.

    Args:
        now: convergence of the applied plan.
        ahead: the next steps.
        problem: why the loop makes no progress; empty while it does.
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
class _Judged:
    """Standing of one replica of the plan, with the reason.

    Attributes:
        for_room: the replica waits for room held by engines that the plan does not want.
    """

    standing: Standing
    why: str
    cause: Cause = Cause.NONE
    for_room: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Inputs:
    """Inputs of one call.

    Attributes:
        current: the engine that fulfils each wanted placement, by replica id.
        kept: the keys of these engines.
        room: bytes that all engines of a device may take together, by device id.
        engines: those of the observation, by their places.
        not_ready, without_files, withheld: as in `Observation`.
    """

    wanted: Sequence[Placement]
    seen: Observation
    policy: ReconcilePolicy
    asleep: Mapping[str, int]
    facts: Explanations
    current: Mapping[str, ObservedReplica]
    kept: frozenset[tuple[str, str]]
    room: Mapping[str, "int | Unknown"]
    engines: SeenEngines
    not_ready: frozenset[str]
    without_files: frozenset[str]
    withheld: frozenset[str]

    def outgoing(self) -> Iterator[ObservedReplica]:
        """Return live engines that the plan does not want."""
        return iter(self.unwanted(r for r in self.seen.replicas if r.state in LIVE))

    def unwanted(self, replicas: Iterable[ObservedReplica]) -> list[ObservedReplica]:
        """Return the replicas that fulfil no placement of the plan."""
        return [r for r in replicas if key_of(r) not in self.kept]

    def age(self, replica: ObservedReplica) -> int:
        """Return whole seconds that the replica has been in its state."""
        return max(0, int(self.seen.now - replica.state_since))


def _progress(placement: Placement, at: _Judged, given: _Inputs) -> ReplicaProgress:
    """Return the public form of a replica's standing."""
    engine = given.current.get(placement.replica_id)
    return ReplicaProgress(
        placement.replica_id,
        placement.model,
        placement.device_id,
        at.standing,
        at.why,
        given.age(engine) if engine is not None else None,
        at.cause,
    )


def _standing(placement: Placement, engine: ObservedReplica | None, given: _Inputs) -> _Judged:
    if placement.model in given.asleep:
        return _Judged(Standing.ASLEEP, "sleeps")
    serves = engine is not None and engine.state is ReplicaState.SERVING
    if serves and placement.device_id not in given.seen.faulted:  # there it is about to be ended
        return _Judged(Standing.SERVING, "serves")
    failed = _failed(placement, engine, given)
    if failed is not None:
        return _Judged(Standing.FAILED, *failed)
    if engine is None:
        return _waits(placement, given)
    if engine.state is ReplicaState.FAILING:
        return _Judged(Standing.WAITING, "starts again once what is left of it is gone")
    if engine.state is ReplicaState.STARTING:
        line = given.facts.progress.get(key_of(engine), "")
        return _Judged(Standing.STARTING, f"starts: {line}" if line else "starts")
    return _Judged(Standing.STARTING, "wakes")


def _failed(
    placement: Placement, engine: ObservedReplica | None, given: _Inputs
) -> tuple[str, Cause] | None:
    """Return the permanent failure of a replica; None if the replica may still serve."""
    device_id = placement.device_id
    if device_id in given.seen.faulted:
        what = given.facts.faults.get(device_id, "it is broken")
        return f"cannot run on its device: {what}", Cause.DEVICE
    if device_id not in given.room:
        return "cannot run: its device failed, or is not there any more", Cause.DEVICE
    files = _missing_files(placement, given)
    if files is not None and files.failures >= HOPELESS_FAILURES:
        return f"has no files: {files.progress}", Cause.FILES
    last = engine or given.engines.awaiting_restart(placement)
    if last is not None and last.failures >= HOPELESS_FAILURES:
        return f"failed {last.failures} times in a row: {_reason(last)}", Cause.ENGINE
    if engine is None and placement.replica_id in given.withheld:
        return _withheld(given.facts.obstacles.get(placement.model))
    return None


def _missing_files(placement: Placement, given: _Inputs) -> Files | None:
    """Return what is known of the files that a replica waits for; None if it waits for none."""
    if placement.form in given.not_ready:
        return given.facts.files.get(placement.form, _NO_FILES)
    if placement.replica_id in given.without_files:
        return given.facts.copies.get(placement.replica_id, _NO_FILES)
    return None


def _withheld(obstacle: Obstacle | None) -> tuple[str, Cause]:
    """Explain why a withheld replica is not started."""
    if obstacle is None:
        return "is not started", Cause.ENGINE
    files = obstacle.kind is ObstacleKind.FILES_MISSING
    why = obstacle.reason.splitlines()[:1]
    return f"is not started: {''.join(why)}", Cause.FILES if files else Cause.ENGINE


def _reason(replica: ObservedReplica) -> str:
    """Return the first line of the replica's last error, and the log line that led to it."""
    # Two parts of the daemon report an end during a start, and one of them names the replica.
    error = replica.last_error.removeprefix(f"{replica.replica_id} did not start: ")
    lines = [line.strip() for line in error.splitlines()[:2]]
    return " ".join(lines) or "the cause is not known"


def _waits(placement: Placement, given: _Inputs) -> _Judged:
    """Explain why a replica has no engine yet."""
    waiting = Standing.WAITING
    files = _missing_files(placement, given)
    if files is not None:
        return _Judged(
            waiting,
            f"waits for its files: {files.progress}" if files.progress else "waits for its files",
        )
    free = given.room[placement.device_id]
    if isinstance(free, Unknown):
        return _Judged(waiting, f"waits until its device can be seen: {free.reason}")
    record = given.engines.awaiting_restart(placement)
    if record is not None and record.state is ReplicaState.FAILED:
        return _Judged(waiting, f"failed and is started again soon: {_reason(record)}")
    return _waits_for_room(placement, free, given)


def _waits_for_room(placement: Placement, free_bytes: int, given: _Inputs) -> _Judged:
    waiting, there = Standing.WAITING, given.engines.live_on(placement.device_id)
    leases = [lease for lease in given.seen.leases if lease.device_id == placement.device_id]
    if not fits(placement.partition, leases, free_bytes):
        return _Judged(waiting, "waits until a profile job gives its place back")
    busy = [r.placement for r in there if r.state in ALLOCATING]
    cores = given.seen.start_cores.get(placement.device_id, 0)
    if placement.device_id in given.seen.measuring or not has_turn(placement, busy, cores):
        before = ", ".join(p.replica_id for p in busy) or "the engine of a profile job"
        return _Judged(waiting, f"starts after {before}")
    if not fits(placement.partition, [*leases, *(holds(r) for r in there)], free_bytes):
        old = _names(r.replica_id for r in given.unwanted(there))
        if old:
            return _Judged(waiting, f"waits for the room of {old}", for_room=True)
        return _Judged(waiting, "waits for room on its device")
    return _Judged(waiting, "waits for its turn to start")


def _without_hope(
    placement: Placement, at: _Judged, failed: Container[str], given: _Inputs
) -> _Judged:
    """Turn a wait for room that never comes free into a failure: the engines there stay, because
    another replica of their model failed and they are the last ones that serve the model.
    """
    if not at.for_room:
        return at
    there = given.engines.live_on(placement.device_id)
    olds = given.unwanted(there)
    if not all(
        r.placement.model in failed and r.state is ReplicaState.SERVING for r in olds
    ) or any(r.state in ENDING | ALLOCATING for r in there):
        return at
    names = _names(r.replica_id for r in olds)
    why = f"has no room: {names} serves on there, because a replica of its model failed"
    return _Judged(Standing.FAILED, why, Cause.ENGINE)


def _names(replica_ids: Iterable[str]) -> str:
    return ", ".join(sorted(set(replica_ids)))


def _leaves(replica: ObservedReplica, given: _Inputs, *, stays: bool) -> ReplicaProgress:
    """Describe the standing of an engine that the plan does not want.

    Args:
        stays: whether a replica of the engine's model failed.
    """
    standing, why, cause = Standing.LEAVING, "is ended", Cause.NONE
    if replica.stuck:
        standing, cause = Standing.FAILED, Cause.ENGINE
        why = f"cannot be ended: {_reason(replica)}"
    elif replica.state is ReplicaState.DRAINING:
        count = replica.in_flight
        requests = "its requests" if count is None else f"{count} request{'s' * (count != 1)}"
        why = f"drains: finishes {requests}"
    elif replica.state is ReplicaState.SERVING:
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
        given.age(replica),
        cause,
    )
