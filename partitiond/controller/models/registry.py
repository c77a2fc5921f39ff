"""Adds, changes and removes registered models, and reports how they are."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.models.releases import ReleaseUseCases
from partitiond.controller.models.variants import form_estimates, other_form, recognise
from partitiond.controller.plans.obstacles import ObstacleUseCases, failed_profiles
from partitiond.controller.plans.use_cases import Plans
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.profiles.params import ProfilingOptions, params_of
from partitiond.controller.profiles.profiling import options_for
from partitiond.controller.profiles.staleness import Staleness, stale_note
from partitiond.controller.profiles.targets import (
    BestProfiles,
    ProfileTarget,
    first_looks,
    in_a_hurry,
    profile_targets,
    unmeasured,
    without_estimate,
)
from partitiond.controller.runtime.interrupted_jobs import (
    interrupted_jobs,
    removed_models,
    without_interrupted,
)
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.sleeping import check_may_sleep
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.controller.views.records import ModelIndex, model_note, model_view
from partitiond.core.errors import (
    ConflictError,
    NotFoundError,
    PartitiondError,
    StoreError,
)
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.spec_changes import changes
from partitiond.core.profile.jobs import (
    ELSEWHERE,
    FIRST_LOOK_SECONDS,
    IN_FULL,
    NOT_MEASURED,
    Job,
    JobCause,
    JobState,
    ProfileOptions,
)
from partitiond.core.profile.record import Profile
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.replica.sleep import said_asleep
from partitiond.core.views.lists import ModelView
from partitiond.planner.model.instance import allowed_on
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock, ModelResolver
from partitiond.store import Store

BEGIN_AGAIN_SECONDS: Final = 30.0
"""Pause before a chain that could not be begun is begun again: a source of models, or the store,
refused. Chosen."""

Params = tuple[tuple[str, str], ...]
Work = tuple[str, Params]
"""What a job measures: the hardware, and its parameters without the device."""


class Registry:
    """Keeps the specs, and starts the chain for them.

    Attributes:
        devices_came: set when devices are seen that were not before, or a chain is due again.

    Args:
        accept: refuses a spec that this host cannot run, by an InputError.
        group_warning: says why an isolation group does not hold on this host; empty if it does.
        device_seconds: age at which devices are looked at again before they are profiled.
        obstacles: knows what keeps models from running.
        releases: keeps the releases of models, which changes begin and removals end.
    """

    def __init__(
        self,
        *,
        store: Store,
        resolver: ModelResolver,
        clock: Clock,
        journal: Journal,
        devices: DeviceWatch,
        files: ModelFiles,
        endpoint: Endpoint,
        controller: Controller,
        jobs: JobQueue,
        plans: Plans,
        staleness: Staleness,
        profiling: ProfilingOptions,
        device_seconds: float,
        accept: Callable[[ModelSpec], None],
        group_warning: Callable[[str], str],
        obstacles: ObstacleUseCases,
        releases: ReleaseUseCases,
    ) -> None:
        self._obstacles = obstacles
        self._store = store
        self._best_profiles = BestProfiles(store.profiles)
        self._resolver = resolver
        self._clock = clock
        self._journal = journal
        self._devices = devices
        self._files = files
        self._endpoint = endpoint
        self._controller = controller
        self._jobs = jobs
        self._plans = plans
        self._staleness = staleness
        self._seen: object = None
        self._not_begun: dict[str, str] = {}
        self._begin_at = math.inf
        self.devices_came = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._releases = releases
        self._profiling = profiling
        self._device_seconds = device_seconds
        self._accept = accept
        self._group_warning = group_warning

    async def register(self, spec: ModelSpec, *, dry_run: bool = False) -> ModelRecord:
        """Register a model and (with `auto`) start the chain for it; return what is stored.

        `dry_run` stores nothing, and refuses what would be refused.

        Raises:
            ConflictError: its name, or one of its aliases, is taken.
            SpecError, ModelSourceError: the model cannot be had, or cannot run here.
        """
        refuse_taken_names(self._store, spec, new=True)
        self._accept(spec)
        spec, architectures = await recognise(self._resolver, spec)
        refuse_taken_names(self._store, spec, new=True)  # another may have taken one meanwhile
        now = self._clock.utc_iso()
        record = ModelRecord(spec, version=1, created_at=now, updated_at=now)
        if dry_run:
            return record
        self._store.add_model(record)
        reached(FaultPoint.MODEL_STORED)
        self._journal.note("model-registered", spec.name, f"from {spec.source.ref}.")
        self._controller.sleep.registered(spec)
        self._begin(spec, architectures)
        return record

    def _begin(
        self,
        spec: ModelSpec,
        architectures: Mapping[str, Architecture],
        targets: Sequence[ProfileTarget] | None = None,
    ) -> None:
        """Begin the chain on these targets, by default on all; what refuses is tried again."""
        try:
            self._begin_chain(spec, architectures, self._targets() if targets is None else targets)
        except PartitiondError as error:
            self._begin_later(spec.name, error)
        else:
            self._not_begun.pop(spec.name, None)

    def _begin_later(self, name: str, error: PartitiondError) -> None:
        problem = str(error)
        if self._not_begun.get(name) != problem:
            self._journal.note("model-not-begun", name, problem)
        self._not_begun[name] = problem
        self._begin_at = self._clock.monotonic() + BEGIN_AGAIN_SECONDS

    def _begin_chain(
        self,
        spec: ModelSpec,
        architectures: Mapping[str, Architecture],
        targets: Sequence[ProfileTarget],
    ) -> None:
        self._obstacles.find()
        now = self._clock.utc_iso()
        for profile in form_estimates(spec, architectures, targets, now):
            self._store.add_profile(profile)
        self._measure(spec)
        if spec.auto:
            self._plans.chain.changed()
        self._controller.wake()

    def _targets(self) -> tuple[ProfileTarget, ...]:
        return profile_targets(self._devices.devices, self._profiling.cpu_partition_cores)

    def _measure(self, spec: ModelSpec) -> None:
        """Queue the jobs that the chain needs of a model; withdraw those that it needs no more."""
        measurable = not self._lacks_engine(spec)
        wanted = self._wanted(spec) if spec.auto and measurable else {}
        for job in self._jobs.open_jobs(spec.name):
            needed = wanted.pop(_work_of(job), None)  # one that is being cancelled is not repeated
            own = job.reason and not job.drift_of  # drift withdraws its own
            if needed is not None and {job.reason, needed[1]} == {NOT_MEASURED, ELSEWHERE}:
                self._jobs.change_reason(job, needed[1])
            unseen = spec.auto and measurable and not self._is_listed(job.hardware)
            if job.state is JobState.QUEUED and own and needed is None and not unseen:
                self._jobs.withdraw(job, "nothing needs it any more.")
        for params, reason in wanted.values():
            self._jobs.submit("profile", spec.name, params, reason=reason)

    def _is_listed(self, hardware: str) -> bool:
        """Return whether devices are listed, and one of the hardware is, if that is known."""
        return any(hardware in ("", device.hardware) for device in self._devices.devices)

    def _lacks_engine(self, spec: ModelSpec) -> bool:
        obstacle = self._obstacles.of(spec)
        return obstacle is not None and obstacle.kind is ObstacleKind.ENGINE_ABSENT

    def measure(self, name: str) -> None:
        """Queue the jobs that the chain needs of a model whose engine has become available; what
        failed before is tried again, now or once its device is seen."""
        self._jobs.forgive(name)
        self._measure(self._store.model(name).spec)

    def measure_rest(self, name: str) -> None:
        """Queue what a model's looks left open; if the store refuses a job, it is queued later.

        A model that is gone meanwhile needs nothing.
        """
        with contextlib.suppress(NotFoundError):
            try:
                self._measure(self._store.model(name).spec)
            except StoreError as error:
                self._begin_later(name, error)

    def _wanted(self, spec: ModelSpec) -> dict[Work, tuple[Params, str]]:
        """Return the jobs that the chain needs: the parameters and the reason of each.

        A model that is not measured waits for a first look at one kind of device where it may be;
        looks at other kinds, and what looks leave open, are done later, each once for each
        specification. A stale profile is measured again once for each reason: if it is stale after
        that, it would be stale after the next measurement, too. What is open now is needed until it
        has ended, and what was interrupted is not done, unless it is given up.
        """
        targets, profiles = self._targets(), self._store.profiles(spec.name)
        allowed = {d.hardware for d in self._devices.devices if allowed_on(spec.rules, d)}
        targets = tuple(t for t in targets if t.device.hardware in allowed) or targets
        kinds = first_looks(targets)
        since = self._store.model(spec.name).updated_at
        opened = {_work_of(job) for job in self._jobs.open_jobs(spec.name)}
        ended = [job for job in self._jobs.ended(spec.name) if _work_of(job) not in opened]
        ended = [job for job in ended if job.cause is not JobCause.WITHDRAWN]
        ended = without_interrupted(ended, _work_of)
        now = self._clock.utc_iso()
        since = since if since <= now else ""  # of a clock that was ahead
        tried = {_work_of(job) for job in ended if since <= job.created_at <= now}
        repeated = {(_work_of(job), job.reason) for job in ended}
        wanted: dict[Work, tuple[Params, str]] = {}

        def look(target: ProfileTarget, form: str, reason: str) -> None:
            params = self._params(target, form, first=reason in (NOT_MEASURED, ELSEWHERE))
            work = target.device.hardware, _asked(params)
            if work not in tried:
                wanted[work] = params, reason

        for name in ("", *(variant.name for variant in spec.variants)):
            own = [profile for profile in profiles if profile.variant == name]
            form = spec.as_variant(name)
            looks = unmeasured(form, kinds, own)
            first = {target.device.hardware for target in looks}
            in_full = [profile for profile in own if not in_a_hurry(profile)]
            reason = ELSEWHERE if len(looks) < len(kinds) else NOT_MEASURED
            for target in looks:
                look(target, name, reason)
            for target in unmeasured(form, targets, in_full):
                if target.device.hardware not in first:
                    look(target, name, IN_FULL)
        for stale in self._staleness.to_measure_again(self._best(spec)):
            for target in targets:
                if (target.device.hardware, target.size) == (stale.hardware, stale.size):
                    params = self._params(target, stale.variant)
                    work = stale.hardware, _asked(params)
                    if (work, stale.reason) not in repeated:
                        wanted.setdefault(work, (params, stale.reason))
        return wanted

    def _params(self, target: ProfileTarget, variant: str, *, first: bool = False) -> Params:
        seconds = min(FIRST_LOOK_SECONDS, self._profiling.time_limit_seconds) if first else 0.0
        options = dataclasses.replace(options_for(target, seconds), variant=variant)
        return params_of(options, self._devices.devices, self._profiling)

    def measure_stale(self) -> None:
        """Queue what became stale since the last look, and have chains begun that could not be;
        called after each pass of the loop.
        """
        if self._clock.monotonic() >= self._begin_at:
            self._begin_at = math.inf
            self.devices_came.set()
        models = [record.spec for record in self._store.models() if record.spec.auto]
        seen = self._staleness.seen(spec.name for spec in models)
        if seen == self._seen:
            return
        for spec in models:
            if self._staleness.to_measure_again(self._best(spec)):
                self._measure(spec)
        self._seen = seen  # last: if the store refuses a job, the next pass queues it

    def _best(self, spec: ModelSpec) -> Sequence[Profile]:
        return self._best_profiles.of(spec)

    def models(self) -> Sequence[ModelView]:
        """All models."""
        seen = self._seen_now()
        return [self._model_view(record, seen) for record in self._store.models()]

    def model(self, name: str) -> ModelView:
        """Raises NotFoundError."""
        return self._model_view(self._store.model(name), self._seen_now())

    def _seen_now(self) -> ModelIndex:
        table = self._endpoint.told.tables[0]
        return ModelIndex.of(
            self._jobs.jobs(),
            self._controller.plan,
            self._controller.engines,
            table.models if table is not None else (),
        )

    def _model_view(self, record: ModelRecord, seen: ModelIndex) -> ModelView:
        name = record.spec.name
        jobs, planned = seen.jobs.get(name, ()), seen.planned.get(name, ())
        engines = seen.engines.get(name, ())
        best = self._best(record.spec)
        level = self._controller.sleep.levels.get(name, 0)
        obstacle = self._obstacle(record, jobs)
        note = model_note(
            name,
            jobs=jobs,
            plan=self._controller.plan,
            planned=planned,
            engines=engines,
            chain_note=self._plans.chain.note,
            fetching=self._files.progress(name),
            stale=stale_note(best, self._staleness.reasons),
            obstacle=obstacle,
            asleep=level,
        )
        return model_view(
            record,
            availability=seen.availability(name),
            planned=planned,
            engines=engines,
            profiles=best,
            note="; ".join(filter(None, (said_asleep(level), note))),
            asleep=level,
            obstacle=obstacle,
            warning=self._group_warning(record.spec.isolation_group),
        )

    def _obstacle(self, record: ModelRecord, jobs: Sequence[Job]) -> Obstacle | None:
        name = record.spec.name
        if name in self._obstacles.present:
            return self._obstacles.present[name]
        planned = self._obstacles.planned
        failed = failed_profiles((record,), lambda _: self._best(record.spec), jobs, planned)
        return failed.get(name)

    async def update(
        self, spec: ModelSpec, expected_version: int | None, *, dry_run: bool = False
    ) -> ModelRecord:
        """Replace the spec of a model; a changed workload or demand goes through the chain again.

        Aliases, default parameters and limits of requests go to the proxy, and change no plan.
        `dry_run` stores nothing, and refuses what would be refused.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the model changed meanwhile, an alias is taken, or its source, weights or
                engine options should change while replicas run of which it is unknown what they
                were started with.
        """
        self._refuse_outdated(spec.name, expected_version)
        old = self._store.model(spec.name)
        refuse_taken_names(self._store, spec)
        if spec == old.spec.offered_as(spec):
            record = self._replace(old, old.spec.offered_as(spec), dry_run=dry_run)
            self._controller.wake()
            return record
        self._accept(spec)
        spec, architectures = await recognise(self._resolver, spec)
        if spec == old.spec and spec.built_for == old.spec.built_for:
            self._refuse_outdated(spec.name, old.version)
            return old
        self._refuse_other_engine(old.spec, spec)
        refuse_taken_names(self._store, spec)
        record = self._replace(old, spec, dry_run=dry_run)
        if not dry_run:
            self._begin(spec, architectures)
        return record

    def _replace(self, old: ModelRecord, spec: ModelSpec, *, dry_run: bool) -> ModelRecord:
        record = dataclasses.replace(
            old, spec=spec, version=old.version + 1, updated_at=self._clock.utc_iso()
        )
        if dry_run:
            return record
        self._releases.begins(old, spec)
        self._store.update_model(record, expected_version=old.version)
        reached(FaultPoint.MODEL_UPDATED)
        what = ", ".join(changes(old.spec, spec)) or "nothing"
        self._journal.note("model-updated", spec.name, f"version {record.version}: {what}.")
        self._releases.began(old, record)
        return record

    def restore(self, old: ModelRecord, spec: ModelSpec) -> None:
        """Give a model the engines of an earlier release, which was accepted when it was new."""
        record = dataclasses.replace(
            old, spec=spec, version=old.version + 1, updated_at=self._clock.utc_iso()
        )
        self._store.update_model(record, expected_version=old.version)
        task = asyncio.create_task(self._begin_again(record), name=f"estimates of {spec.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse_other_engine(self, old: ModelSpec, new: ModelSpec) -> None:
        plan = self._controller.plan
        # An unknown release counts as equal to any other: its engines would never be replaced.
        unknown = {
            p.candidate.variant
            for p in (plan.wanted if plan else ())
            if p.model == new.name and not p.candidate.release
        }
        if any(other_form(old, new, variant) for variant in unknown):
            raise ConflictError(
                f"{new.name} has replicas that an older partitiond planned: it cannot tell whether "
                "they have the new source, weights or engine options.",
                hint="Register it under another name, or remove it first and register it anew.",
                facts={"model": new.name},
            )

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        """Remove the model: its jobs are cancelled, its replicas drain and stop.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the model changed meanwhile.
        """
        self._refuse_outdated(name, expected_version)
        while jobs := self._jobs.open_jobs(name):  # others may be queued while one ends
            await self._jobs.cancel(jobs[0].id)
        self._refuse_outdated(name, expected_version)
        # First: a mark that outlives its model would put the next model of that name to sleep.
        self._controller.sleep.forget(name)
        self._store.remove_model(name)
        reached(FaultPoint.MODEL_REMOVED)
        self._files.forget(name)
        self._releases.forget(name)
        self._journal.note("model-removed", name, "its replicas drain and stop.")
        self._plans.drop_model(name)
        self._plans.chain.changed()
        self._controller.wake()

    def _refuse_outdated(self, name: str, expected_version: int | None) -> None:
        record = self._store.model(name)
        if expected_version is not None and expected_version != record.version:
            raise _outdated(record, expected_version)

    def resume(self) -> None:
        """Finish what the end of the previous daemon interrupted.

        A model that was removed from the store leaves the plan, too; jobs of models in the chain
        are queued again.
        """
        records = self._store.models()
        for name in removed_models(self._controller.desired, records):
            self._plans.drop_model(name)
        now = self._clock.utc_iso()  # a model of a clock that was ahead may have begun at any time
        begun = {r.spec.name: min(r.created_at, now) for r in records if r.spec.auto}
        self._jobs.go_on(
            [
                job
                for job in interrupted_jobs(self._store.jobs(limit=None))
                # A name may have come back with another model since.
                if job.subject in begun and job.created_at >= begun[job.subject]
            ]
        )
        self._plans.chain.changed()

    async def begin_again(self) -> None:
        """Go on with the chain of each model as far as the store says that it came, at first and
        whenever devices came. Runs until cancelled.
        """
        while True:
            self.devices_came.clear()
            for record in self._store.models():
                await self._begin_again(record)
            await self.devices_came.wait()

    async def _begin_again(self, record: ModelRecord) -> None:
        spec = record.spec
        targets = without_estimate(spec, self._targets(), self._store.profiles(spec.name))
        if not targets:
            self.measure_rest(spec.name)
            return
        try:
            _, architectures = await recognise(self._resolver, spec)
        except PartitiondError as error:
            self._begin_later(spec.name, error)
            return
        if record in self._store.models():  # it may have been removed, or changed, meanwhile
            self._begin(spec, architectures, targets)

    def put_to_sleep(self, name: str, level: int = 1) -> ModelView:
        """Drain the model and put its engines to sleep; a model without engines sleeps at once.

        Raises:
            NotFoundError, InputError: there is no such model, or level.
            ConflictError: the model has no sleep mode, or sleeps at another level; or another
                control plane has taken over, so that the model could not be woken.
        """
        if why := self._devices.overtaken:
            raise ConflictError(f"{name} stays awake: {why}", facts={"model": name})
        asleep = self._controller.sleep.levels.get(name, 0)
        check_may_sleep(self._store.model(name).spec, level, asleep)
        if not asleep:
            self._controller.sleep.put_to_sleep(name, level, "as asked")
        return self.model(name)

    def wake(self, name: str) -> ModelView:
        """Wake the model. Raises NotFoundError."""
        self._store.model(name)
        if name in self._controller.sleep.levels:
            self._controller.sleep.wake_as_asked(name)
        return self.model(name)

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        """Queue a profile job. Raises NotFoundError, InputError."""
        await self._devices.refresh(self._device_seconds)
        self._store.model(name)
        params = params_of(options, self._devices.devices, self._profiling)
        return self._jobs.submit("profile", name, params)


def _asked(params: Params) -> Params:
    return tuple(pair for pair in params if pair[0] != "device_id")


def _work_of(job: Job) -> Work:
    return job.hardware, _asked(job.params)


def refuse_taken_names(store: Store, spec: ModelSpec, *, new: bool = False) -> None:
    """Raises ConflictError if another model has one of the names; `new`: or the same name."""
    for record in store.models():
        other = record.spec
        if other.name == spec.name:
            if new:
                raise _name_taken(spec.name)
            continue
        taken = {spec.name, *spec.aliases} & {other.name, *other.aliases}
        if taken:
            raise _alias_taken(min(taken), other.name)


def _name_taken(name: str) -> ConflictError:
    return ConflictError(
        f"a model named {name} is registered already.",
        hint="Change it with PATCH, remove it first, or choose another name.",
        facts={"model": name},
    )


def _alias_taken(alias: str, owner: str) -> ConflictError:
    own = alias == owner
    what = "is that of a registered model" if own else f"is an alias of {owner}"
    return ConflictError(
        f"the name {alias} {what}: a request for it could mean either.",
        hint=f"Choose another name, or {'remove' if own else 'take it from'} {owner} first.",
        facts={"name": alias, "model": owner},
    )


def _outdated(record: ModelRecord, expected: int) -> ConflictError:
    return ConflictError(
        f"{record.spec.name} is at version {record.version}, not {expected}: it changed meanwhile.",
        hint="Read it again, and repeat the change on what it is now.",
        facts={"version": record.version, "expected": expected},
    )
