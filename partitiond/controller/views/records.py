"""Makes the views of models and replicas that people see. Pure."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Self

from partitiond.controller.profiles.targets import best_kind
from partitiond.controller.runtime.diagnosis import first_line
from partitiond.controller.runtime.engine_matching import by_replica, own_engine
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.routes import AT_REST
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.core.hardware.partition import Partition
from partitiond.core.model.record import ModelRecord
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.profile.jobs import Job, JobState, job_place
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.replica.device_room import holds
from partitiond.core.replica.observation import HOPELESS_FAILURES, LIVE
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.views.lists import ModelView, ReplicaView


@dataclasses.dataclass(frozen=True, slots=True)
class PlacedView:
    """One engine as people see it, and what it is placed for.

    Attributes:
        holds: the part of its device that it holds now; None without a process.
    """

    view: ReplicaView
    placement: Placement
    holds: Partition | None


@dataclasses.dataclass(frozen=True, slots=True)
class ModelIndex:
    """Lookup tables by model name, for lists of all models.

    Attributes:
        jobs: newest first.
        planned: places of the applied plan.
    """

    jobs: Mapping[str, Sequence[Job]]
    planned: Mapping[str, Sequence[Placement]]
    engines: Mapping[str, Sequence[Engine]]
    routes: Mapping[str, ModelRoute]

    @classmethod
    def of(
        cls,
        jobs: Iterable[Job],
        plan: Plan | None,
        engines: Iterable[Engine],
        routes: Iterable[ModelRoute],
    ) -> Self:
        """Group everything by model, in one pass over each."""
        return cls(
            grouped(jobs, lambda job: job.subject),
            grouped(plan.wanted if plan is not None else (), lambda placement: placement.model),
            grouped(engines, lambda engine: engine.placement.model),
            {route.name: route for route in routes},
        )

    def availability(self, model: str) -> ModelAvailability:
        """Return the availability that the endpoint was told last."""
        route = self.routes.get(model)
        return route.availability if route is not None else ModelAvailability.UNAVAILABLE


def placed_views(
    desired: Sequence[Placement],
    engines: Sequence[Engine],
    *,
    name_for: Callable[[Placement], str],
    asleep: Collection[str],
    fetching: Mapping[str, str],
    hosts: Mapping[str, str],
) -> tuple[PlacedView, ...]:
    """Return all engines, pending ones included, by name: what all tables and metrics show.

    Args:
        desired: the applied plan's placements.
        engines: all engines the loop knows.
        name_for: the name that the engine of a placement has, or will have.
        asleep: models that are to sleep: nothing of theirs is started.
        fetching: what the fetch of its files says, by replica id.
        hosts: names of hosts, by device id.
    """
    of_replica = by_replica(engines)
    owns = {p.replica_id: own_engine(p, of_replica.get(p.replica_id, ())) for p in desired}
    again = {id(owns[p.replica_id]) for p in desired if p.model not in asleep}
    found = [
        _engine_view(engine, id(engine) in again, hosts.get(engine.placement.device_id, ""))
        for engine in engines
    ]
    found += [
        _coming_view(
            p,
            name_for(p),
            asleep=p.model in asleep,
            fetching=fetching.get(p.replica_id, ""),
            host=hosts.get(p.device_id, ""),
        )
        for p in desired
        if owns[p.replica_id] is None
    ]
    return tuple(sorted(found, key=lambda placed: (placed.view.model, placed.view.engine)))


def _engine_view(engine: Engine, wanted: bool, host: str) -> PlacedView:
    handle, placement = engine.handle, engine.placement
    holding = holds(engine.observed()) if engine.live else None
    view = ReplicaView(
        replica_id=placement.replica_id,
        engine=engine.name,
        model=placement.model,
        device_id=placement.device_id,
        partition=placement.partition,
        state=engine.shown.value,
        pid=handle.pid if handle is not None and engine.state in LIVE else None,
        in_flight=engine.in_flight,
        limit=placement.candidate.batch,
        memory_bytes=placement.partition.memory_bytes,
        starts=engine.starts,
        adopted=engine.adopted,
        start_progress=engine.progress if engine.shown is ReplicaState.STARTING else "",
        last_error=engine.last_error,
        log_path=handle.log_path if handle is not None else "",
        socket_path=handle.socket_path if handle is not None and engine.state in LIVE else "",
        variant=engine.placement.candidate.variant,
        sleep_level=engine.sleep_level,
        held_bytes=holding.memory_bytes if holding is not None else 0,
        coming_bytes=placement.partition.memory_bytes if wanted and not engine.live else 0,
        host=host or (handle.host if handle is not None else ""),
    )
    return PlacedView(view, placement, holding)


def _coming_view(
    placement: Placement, name: str, *, asleep: bool, fetching: str, host: str
) -> PlacedView:
    """A wanted replica without an engine yet."""
    waits = "a request starts it" if asleep else fetching or "waits for its turn to start"
    view = ReplicaView(
        replica_id=placement.replica_id,
        engine=name,
        model=placement.model,
        device_id=placement.device_id,
        partition=placement.partition,
        state=ReplicaState.PENDING.value,
        pid=None,
        in_flight=None,
        limit=placement.candidate.batch,
        memory_bytes=placement.partition.memory_bytes,
        starts=0,
        adopted=False,
        start_progress=waits,
        variant=placement.candidate.variant,
        coming_bytes=0 if asleep else placement.partition.memory_bytes,
        host=host,
    )
    return PlacedView(view, placement, None)


def model_view(
    record: ModelRecord,
    *,
    availability: ModelAvailability,
    planned: Sequence[Placement],
    engines: Sequence[Engine],
    profiles: Sequence[Profile],
    note: str,
    asleep: int = 0,
    obstacle: Obstacle | None = None,
    warning: str = "",
) -> ModelView:
    """One model, by its own places and engines; `profiles` are the best ones that speak for it."""
    serving = [engine for engine in engines if engine.shown is ReplicaState.SERVING]
    resting = asleep or any(engine.state in AT_REST for engine in engines)
    gone = "starting" if planned else "scaled to zero"
    idle = "scaled to zero" if asleep == STOPPED else "asleep" if resting else gone
    return ModelView(
        record=record,
        availability=idle if availability is ModelAvailability.SLEEPING else availability.value,
        replicas_serving=len(serving),
        replicas_planned=len(planned),
        profile_kind=best_kind(profiles),
        provisional=any(p.candidate.profile_kind is ProfileKind.ESTIMATED for p in planned),
        note=note,
        asleep=asleep,
        obstacle=obstacle,
        warning=warning,
    )


def model_note(
    name: str,
    *,
    jobs: Sequence[Job],
    plan: Plan | None,
    planned: Sequence[Placement],
    engines: Sequence[Engine],
    chain_note: str,
    fetching: str,
    stale: str = "",
    obstacle: Obstacle | None = None,
    asleep: int = 0,
) -> str:
    """Return what a model waits for, in one sentence; empty if it waits for nothing.

    Args:
        name: the model.
        jobs: all jobs, newest first.
        plan: the applied plan.
        planned: its places in that plan.
        engines: its own.
        chain_note: what the chain last said.
        fetching: what the fetch of its files says.
        stale: what is stale about its profiles, and what to do.
        obstacle: what keeps it from running.
        asleep: the level at which it is to sleep; 0 where it is to be awake.
    """
    own = [job for job in jobs if job.subject == name]
    for job in own:
        if job.state is JobState.RUNNING:
            where = f" on {job_place(job)}" if job.device_id else ""
            return f"is being profiled ({job.id}{where}): {job.progress.message}"
    if obstacle is not None:
        return str(obstacle)
    broken = [
        e for e in engines if e.state is ReplicaState.FAILED and e.failures >= HOPELESS_FAILURES
    ]
    if broken:
        engine = broken[0]
        return f"{engine.name} failed {engine.failures} times: {first_line(engine.last_error)}"
    if planned:
        failed = any(e.state is ReplicaState.FAILED for e in engines)
        return fetching or _measured_again(own) or stale or (chain_note if failed else "")
    if not chain_note and not asleep:
        chain_note = "is not part of the applied plan; `partitiond plan` shows what would be"
    return _why_unplanned(name, own, plan, chain_note)


def _measured_again(own: Sequence[Job]) -> str:
    """Note that a stale profile of a planned model is about to be measured again; or empty."""
    for job in own:
        if job.state is JobState.QUEUED and job.reason:
            return f"{job.id} ({job.reason}) {job.progress.message}"
    return ""


def _why_unplanned(name: str, own: Sequence[Job], plan: Plan | None, chain_note: str) -> str:
    for job in own:
        if job.state is JobState.QUEUED:
            return f"{job.id} {job.progress.message}"
    unplaced = [u for u in (plan.unplaced if plan is not None else ()) if u.model == name]
    if unplaced:
        return f"{unplaced[0].reason} {unplaced[0].remedy}".strip()
    return chain_note
