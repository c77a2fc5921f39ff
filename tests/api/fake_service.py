"""Fakes a control plane that only remembers: `ports.ControlService` on an in-memory store."""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from partitiond.controller.demand.sleeping import check_may_sleep
from partitiond.controller.keys.usage import UsageDesk
from partitiond.controller.runtime.cordons import device_named, with_cordons
from partitiond.controller.watchers import Watchers
from partitiond.core.errors import ConflictError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.keys.record import KeyRecord, KeyTerms, KeyUse
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import (
    Alternative,
    PlanAnswers,
    PlanProgress,
    PlanQuestion,
    figures_of,
)
from partitiond.core.plan.record import Certificate, Infeasible, Objective, Plan, PlanDiff, Status
from partitiond.core.profile.jobs import (
    ENDED,
    Job,
    JobState,
    ProfileOptions,
    Progress,
)
from partitiond.core.profile.record import Profile
from partitiond.core.units import Bytes
from partitiond.core.views.lists import (
    KeyView,
    ModelView,
    ProfileView,
    PrunableProfile,
    ReplicaView,
)
from partitiond.core.views.preview import PlanPreview
from partitiond.ports import Overviews
from partitiond.ports.convergence import Convergences
from partitiond.ports.drift import DriftControl
from partitiond.ports.fit import FitCheck
from partitiond.ports.releases import Releases
from partitiond.ports.scaling import Scalings
from partitiond.ports.usage import Usages
from partitiond.store import open_store
from tests.api.fake_convergence import FakeConvergence
from tests.api.fake_drift import FakeDrift
from tests.api.fake_overview import FakeFit, overview_of
from tests.api.fake_releases import FakeReleases
from tests.api.fake_scaling import FakeScaling
from tests.controller.fakes import FakeClock

AT = "2030-01-01T00:00:00Z"


class FakeService:
    """Attributes are for tests to set and look at."""

    def __init__(self) -> None:
        self.store = open_store(":memory:")
        self.not_ready: dict[str, str] = {}
        self.shut_down: list[bool] = []
        self.infeasible: Infeasible | None = None
        self.asked: list[ProfileOptions] = []
        self.broken: Exception | None = None
        self.change_before_update = False
        self.in_use = False
        self.cordons: dict[str, str] = {}
        self.stale: tuple[str, ...] = ()
        self.uses: dict[str, KeyUse] = {}
        self.graces: list[float] = []
        self.watchers = Watchers()
        self.questions: list[PlanQuestion] = []
        self.plan_error: Exception | None = None
        self.waiting: PlanPreview | None = None
        self.solving = asyncio.Event()
        self.solving.set()
        self.ended_early = asyncio.Event()
        self.windows: list[float] = []
        self.clock = FakeClock()
        self.drift: DriftControl = FakeDrift()
        self.overview: Overviews = overview_of(self)
        self.fit: FitCheck = FakeFit(self)
        self.scaling: Scalings = FakeScaling()
        self.releases: Releases = FakeReleases()
        self.convergence: Convergences = FakeConvergence()
        self.usage: Usages = UsageDesk(
            store=self.store, clock=self.clock, shares=dict, latest=lambda: None, keep_days=0
        )

    async def until_writable(self) -> None:
        self.store.wait_until_writable(0.0)

    def close(self) -> None:
        self.store.close()

    async def register(self, spec: ModelSpec) -> ModelRecord:
        record = ModelRecord(spec, 1, AT, AT)
        self.store.add_model(record)
        self.store.add_event(AT, "model-registered", spec.name, "registered")
        return record

    def models(self) -> Sequence[ModelView]:
        return [self.model(record.spec.name) for record in self.store.models()]

    def model(self, name: str) -> ModelView:
        return ModelView(self.store.model(name), "unavailable", 0, 0, None, False, "waits")

    async def update(self, spec: ModelSpec, expected_version: int | None) -> ModelRecord:
        if self.in_use:
            raise ConflictError(f"{spec.name} has replicas with the old options.")
        if self.change_before_update:
            self._bump(spec.name)
        old = self.store.model(spec.name)
        record = ModelRecord(spec, old.version + 1, old.created_at, AT)
        version = old.version if expected_version is None else expected_version
        self.store.update_model(record, expected_version=version)
        return record

    def _bump(self, name: str) -> None:
        old = self.store.model(name)
        changed = dataclasses.replace(old, version=old.version + 1)
        self.store.update_model(changed, expected_version=old.version)

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        if self.change_before_update:
            self._bump(name)
            raise ConflictError(f"model {name} was changed meanwhile.")
        self.store.remove_model(name)

    def put_to_sleep(self, name: str, level: int = 1) -> ModelView:
        asleep = int(self.store.marks("asleep").get(name, "0"))
        check_may_sleep(self.store.model(name).spec, level, asleep)
        self.store.set_mark("asleep", name, str(level))
        return dataclasses.replace(self.model(name), asleep=level)

    def wake(self, name: str) -> ModelView:
        self.store.set_mark("asleep", name, None)
        return self.model(name)

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        self.store.model(name)
        self.asked.append(options)
        progress = Progress("queued", "waits for the device")
        job_id = f"job-{self.store.next_counter('job')}"
        job = Job(job_id, "profile", name, JobState.QUEUED, AT, AT, progress)
        self.store.put_job(job)
        return job

    def jobs(self) -> Sequence[Job]:
        return self.store.jobs()

    def job(self, job_id: str) -> Job:
        return self.store.job(job_id)

    async def cancel_job(self, job_id: str) -> Job:
        return self.change_job(job_id, state=JobState.CANCELLED)

    def change_job(self, job_id: str, **changes: Any) -> Job:
        """Change a job, as the daemon would while it works, and wake its watchers."""
        job = dataclasses.replace(self.store.job(job_id), **changes)
        self.store.put_job(job)
        self.watchers.changed(job_id)
        return job

    def watch_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        self.store.job(job_id)
        return self.watchers.watch(
            job_id, lambda: self.store.job(job_id), lambda job: job.state in ENDED
        )

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        return self.store.profiles(model)

    def profile_by_id(self, profile_id: str) -> Profile:
        return self.store.profile(profile_id)

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        return [ProfileView(profile, self.stale) for profile in self.store.profiles(model)]

    def profile_view(self, profile_id: str) -> ProfileView:
        return ProfileView(self.store.profile(profile_id), self.stale)

    def import_profile(self, profile: Profile, *, replace: bool = False) -> Profile:
        known = {kept.id: kept for kept in self.store.profiles()}
        if profile.id in known and known[profile.id] != profile and not replace:
            raise ConflictError(f"another profile with the id {profile.id} is kept already.")
        self.store.add_profile(profile)
        return profile

    def prune_profiles(self, *, delete: bool) -> Sequence[PrunableProfile]:
        found = [PrunableProfile(p.id, p.model, self.stale) for p in self.store.profiles()]
        if delete:
            self.store.remove_profiles([one.id for one in found])
        return found

    async def plan(
        self,
        question: PlanQuestion | None = None,
        on_progress: Callable[[PlanProgress], None] | None = None,
    ) -> PlanPreview:
        asked = question or PlanQuestion()
        self.questions.append(asked)
        objective = asked.objective or Objective.MIN_DEVICES
        if on_progress is not None:
            on_progress(PlanProgress("the plan", objective=objective, value=2.0, bound=1.0))
            await self._solving()
        if self.plan_error is not None:
            raise self.plan_error
        certificate = Certificate(objective, 0.0, 0.0, 0.0, Status.OPTIMAL, "exact", 0.0)
        plan = Plan(
            f"plan-{self.store.next_counter('plan')}",
            (),
            tuple(self.devices()),
            (),
            (),
            certificate,
            ("nothing is registered",),
            AT,
        )
        others = tuple(Alternative(text, figures_of(plan), 0.0) for text in asked.what_if)
        return PlanPreview(
            plan, PlanDiff((), (), (), ()), self.infeasible, PlanAnswers(what_if=others)
        )

    async def _solving(self) -> None:
        """Until the test lets it go; told when it is ended instead."""
        try:
            await self.solving.wait()
        except asyncio.CancelledError:
            self.ended_early.set()
            raise

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        preview = await self.plan()
        if plan_id is not None and plan_id != "plan-1":
            raise ConflictError(f"plan {plan_id} is outdated.", hint="Make a fresh one.")
        self.store.set_plan(preview.plan)
        return preview

    def current_plan(self) -> Plan | None:
        return self.store.plan()

    def waiting_plan(self) -> PlanPreview | None:
        return self.waiting

    def replicas(self) -> Sequence[ReplicaView]:
        partition = CpuCores("cpu", Bytes(1 << 30), (0,))
        return [
            ReplicaView(
                f"{m}-1", f"{m}-1", m, "cpu", partition, "serving", 7, 0, 8, 1 << 30, 1, False
            )
            for m in ("a", "b")
        ]

    def devices(self) -> Sequence[Device]:
        memory = Bytes(8 << 30)
        modes = (SharingMode.CORES,)
        return [Device("cpu", DeviceKind.CPU, "x", "X", "h", memory, memory, (0, 1), modes=modes)]

    async def device(self, device_id: str) -> DeviceDetails:
        return DeviceDetails(device_named(with_cordons(self.devices(), self.cordons), device_id))

    async def cordon(self, device_id: str, reason: str) -> Device:
        self.cordons[device_named(self.devices(), device_id).id] = reason
        return (await self.device(device_id)).device

    async def uncordon(self, device_id: str) -> Device:
        self.cordons.pop(device_id, None)
        return (await self.device(device_id)).device

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        if self.broken is not None:
            raise self.broken
        return self.store.events(after, limit, wanted)

    async def create_key(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
        key = f"pk-{self.store.next_counter('key')}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        record = KeyRecord(id=digest[:8], sha256=digest, created_at=AT, **values(terms))
        self.store.add_key(record)
        return record, key

    def keys(self) -> Sequence[KeyRecord]:
        return self.store.keys()

    def key(self, key_id: str) -> KeyRecord:
        return self.store.key(key_id)

    async def key_view(self, key_id: str) -> KeyView:
        return KeyView(self.store.key(key_id), self.uses.get(key_id))

    async def update_key(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        record = dataclasses.replace(self.store.key(key_id), **values(terms))
        self.store.update_key(record)
        return record

    async def rotate_key(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        self.graces.append(grace_seconds)
        key = f"pk-{self.store.next_counter('key')}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        old = self.store.key(key_id)
        record = dataclasses.replace(
            old, sha256=digest, previous_sha256=old.sha256, previous_until=AT
        )
        self.store.update_key(record)
        return record, key

    async def remove_key(self, key_id: str) -> None:
        self.store.remove_key(key_id)

    def readiness(self) -> Mapping[str, str]:
        return self.not_ready

    async def metrics(self) -> str:
        return "partitiond_up 1\n"

    async def shutdown(self, *, stop_engines: bool) -> None:
        self.shut_down.append(stop_engines)


def values(terms: KeyTerms) -> dict[str, Any]:
    return {field.name: getattr(terms, field.name) for field in dataclasses.fields(KeyTerms)}
