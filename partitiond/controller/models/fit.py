"""Checks whether one more model fits, by a plan as if it were registered, from its estimate."""

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Sequence

from partitiond.controller.models.variants import form_estimates, recognise
from partitiond.controller.plans.obstacles import ObstacleUseCases
from partitiond.controller.plans.situation import Situation
from partitiond.controller.profiles.params import ProfilingOptions
from partitiond.controller.profiles.targets import best_profiles, profile_targets
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.controller.views.parts import frontier_views
from partitiond.core.errors import InputError, ModelSourceError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import ModelForecast, Plan, PlanDiff
from partitiond.core.profile.record import Profile
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import STOPPED, scales_to_zero
from partitiond.core.views.fit import Fit
from partitiond.core.views.preview import PlanPreview
from partitiond.ports import Clock, ModelResolver
from partitiond.store import Store

Imagine = Callable[[Callable[[Situation], Situation], PlanQuestion], Awaitable[PlanPreview]]
"""`Plans.imagine`."""


class FitUseCases:
    """Tells whether one more model fits, before it is registered.

    Args:
        accept: refuses a spec that this host cannot run, by an InputError.
        imagine: makes a plan of a changed situation.
        obstacles: knows what would keep the model from running.
        applied: returns the applied plan.
        effective: returns a spec with the demand that plans are made for.
    """

    def __init__(
        self,
        *,
        store: Store,
        resolver: ModelResolver,
        clock: Clock,
        devices: DeviceWatch,
        profiling: ProfilingOptions,
        accept: Callable[[ModelSpec], None],
        imagine: Imagine,
        obstacles: ObstacleUseCases,
        applied: Callable[[], Plan | None],
        effective: Callable[[ModelSpec], ModelSpec],
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._clock = clock
        self._devices = devices
        self._profiling = profiling
        self._accept = accept
        self._imagine = imagine
        self._obstacles = obstacles
        self._applied = applied
        self._effective = effective

    async def check(self, spec: ModelSpec) -> Fit:
        """Plan as if the model were registered; measured profiles of it count before an estimate.

        Raises:
            SpecError, ModelSourceError: the model cannot be had, or cannot run here.
        """
        record, profiles = await self._as_registered(spec)
        registered = any(r.spec.name == spec.name for r in self._store.models())
        obstacle = self._obstacles.of(spec)
        preview = await self._imagine(
            lambda is_now: with_model(is_now, record, profiles, obstacle), PlanQuestion()
        )
        others = self._obstacles.present.keys() - {spec.name}
        fits, summary = verdict(spec.name, preview, self._applied(), others)
        places = [place for place in preview.plan.wanted if place.model == spec.name]
        frontiers = frontier_views(profiles, places, ())
        return Fit(spec.name, fits, summary, registered, preview, frontiers)

    async def plan_with(
        self, specs: Sequence[ModelSpec], *, allow_outage: bool = False
    ) -> PlanPreview:
        """Make the plan as if all of these models were registered so. It cannot be applied.

        Those that sleep go on sleeping, as they do when they change; new ones that scale to zero
        begin there.

        Raises:
            InputError, ModelSourceError: a model cannot be had, or cannot run here; facts name it.
        """
        models = [(*await self._as_registered(spec), self._obstacles.of(spec)) for spec in specs]

        def changed(situation: Situation) -> Situation:
            known = {record.spec.name for record in situation.records}
            zero = {record.spec.name for record, *_ in models if scales_to_zero(record.spec)}
            asleep = (*situation.asleep, *((name, STOPPED) for name in sorted(zero - known)))
            for record, profiles, obstacle in models:
                situation = with_model(situation, record, profiles, obstacle)
            return dataclasses.replace(situation, asleep=asleep)

        return await self._imagine(changed, PlanQuestion(allow_outage=allow_outage))

    async def _as_registered(self, spec: ModelSpec) -> tuple[ModelRecord, Sequence[Profile]]:
        """Return a model as if it were registered, and its best profiles."""
        try:
            self._accept(spec)
            spec, architectures = await recognise(self._resolver, spec)
        except (InputError, ModelSourceError) as error:
            error.facts["model"] = spec.name
            raise
        now = self._clock.utc_iso()
        targets = profile_targets(self._devices.devices, self._profiling.cpu_partition_cores)
        made = form_estimates(spec, architectures, targets, now)
        record = ModelRecord(self._effective(spec), version=1, created_at=now, updated_at=now)
        return record, best_profiles(spec, (*self._store.profiles(spec.name), *made))


def with_model(
    situation: Situation,
    record: ModelRecord,
    profiles: Sequence[Profile],
    obstacle: Obstacle | None = None,
) -> Situation:
    """Return the situation with one more model, or with a registered model as it would be.

    Args:
        record: the model.
        profiles: of the model, best ones first.
        obstacle: what would keep it from running.
    """
    name = record.spec.name
    others = tuple(r for r in situation.records if r.spec.name != name)
    theirs = tuple((model, best) for model, best in situation.profiles if model != name)
    obstacles = tuple(o for o in situation.obstacles if o.model != name)
    if obstacle is not None:
        profiles = obstacle.open(profiles)
        obstacles = obstacles if profiles else (*obstacles, obstacle)
    return dataclasses.replace(
        situation,
        records=(*others, record),
        profiles=(*theirs, (name, tuple(profiles))),
        asleep=tuple((model, level) for model, level in situation.asleep if model != name),
        obstacles=obstacles,
        warnings=tuple(o for o in situation.warnings if o.model != name),
    )


def verdict(
    name: str, preview: PlanPreview, applied: Plan | None, obstructed: Collection[str] = ()
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the model fits, and what people should know, in sentences.

    Args:
        name: the model.
        preview: of the plan with it.
        applied: the applied plan; models without a place in it do not count against this one.
        obstructed: other models that cannot run, with this model or without it.
    """
    if preview.infeasible is not None:
        return False, (*preview.infeasible.reasons, *preview.infeasible.remedies)
    plan = preview.plan
    before = {u.model for u in applied.unplaced} if applied is not None else set()
    before.update(obstructed)
    own = [u for u in plan.unplaced if u.model == name]
    losers = sorted({u.model for u in plan.unplaced} - before - {name})
    said = [f"{u.reason} {u.remedy}".strip() for u in own]
    if losers:
        said.append(f"{', '.join(losers)} would not get all that was asked for.")
    forecast = next((f for f in plan.forecasts if f.model == name), None)
    if forecast is not None and forecast.replicas:
        said.insert(
            0, _gets(forecast, len({p.device_id for p in plan.placements if p.model == name}))
        )
    said.append(_changes(name, preview.diff))
    return not own and not losers, tuple(said)


def _gets(forecast: ModelForecast, devices: int) -> str:
    replicas = f"{forecast.replicas} replica{'s' if forecast.replicas != 1 else ''}"
    on = f"{devices} device{'s' if devices != 1 else ''}"
    rate = f"{forecast.capacity_req_per_s:.3g} requests/s"
    if forecast.demand_req_per_s is None:
        return f"{replicas} on {on}, good for {rate}."
    return f"{replicas} on {on}, good for {rate} of {forecast.demand_req_per_s:.3g} wanted."


def _changes(name: str, diff: PlanDiff) -> str:
    moved = [new.replica_id for _, new in diff.move if new.model != name]
    stopped = [p.replica_id for p in diff.stop if p.model != name]
    if not moved and not stopped:
        return "Nothing that runs is moved or stopped."
    parts = [("moves", moved), ("stops", stopped)]
    words = [f"{verb} {', '.join(names)}" for verb, names in parts if names]
    return f"It {' and '.join(words)}, and so waits for Apply."
