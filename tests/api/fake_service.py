"""Fakes a control plane that only remembers: the use cases on an in-memory store."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from partitiond.controller.keys.usage import UsageUseCases
from partitiond.controller.runtime.cordons import with_cordons
from partitiond.controller.service import Service
from partitiond.controller.views.overview import OverviewUseCases, Sources
from partitiond.core.demand.traffic import NO_WINDOW, TrafficWindow
from partitiond.core.errors import ConflictError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.named import device_named
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.keys.record import KeyRecord, KeyTerms, KeyUse
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan import answers
from partitiond.core.plan.record import Certificate, Infeasible, Objective, Plan, PlanDiff, Status
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.profile.record import Profile
from partitiond.core.units import Bytes
from partitiond.core.views.fit import Fit
from partitiond.core.views.lists import KeyView, ProfileView, ReplicaView
from partitiond.core.views.preview import PlanPreview
from partitiond.store import Store, open_store
from tests.api.fake_models import AT, FakeModels
from tests.api.fake_views import FakeConvergence, FakeDrift, FakeReleases, FakeScaling
from tests.controller.fakes import FakeClock
from tests.hosts.fleet import FakeHosts

MEMORY = Bytes(8 << 30)
CPU = Device(
    "cpu", DeviceKind.CPU, "x", "X", "h", MEMORY, MEMORY, (0, 1), modes=(SharingMode.CORES,)
)


class FakeJobs:
    """Fakes `api.given.JobControl`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def jobs(self) -> Sequence[Job]:
        return self.store.jobs()

    def job(self, job_id: str) -> Job:
        return self.store.job(job_id)

    async def cancel(self, job_id: str) -> Job:
        job = dataclasses.replace(self.store.job(job_id), state=JobState.CANCELLED)
        self.store.put_job(job)
        return job


class FakeProfiles:
    """Fakes `api.given.ProfileControl`; `stale` is why each profile is stale."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stale: tuple[str, ...] = ()

    def views(self, model: str | None = None) -> Sequence[ProfileView]:
        return [ProfileView(profile, self.stale) for profile in self.store.profiles(model)]

    def view(self, profile_id: str) -> ProfileView:
        return ProfileView(self.store.profile(profile_id), self.stale)

    def keep(self, profile: Profile, *, replace: bool = False) -> Profile:
        known = {kept.id: kept for kept in self.store.profiles()}
        if profile.id in known and known[profile.id] != profile and not replace:
            raise ConflictError(f"another profile with the id {profile.id} is kept already.")
        self.store.add_profile(profile)
        return profile


class FakeDevices:
    """Fakes the devices and their cordons."""

    devices = (CPU,)

    def __init__(self) -> None:
        self.cordons: dict[str, str] = {}

    async def inspect(self, device_id: str) -> DeviceDetails:
        return DeviceDetails(self._named(device_id))

    def set(self, device_id: str, reason: str) -> Device:
        self.cordons[self._named(device_id).id] = reason
        return self._named(device_id)

    async def lift(self, device_id: str) -> Device:
        self.cordons.pop(device_id, None)
        return self._named(device_id)

    def _named(self, device_id: str) -> Device:
        return device_named(with_cordons(self.devices, self.cordons), device_id)


class FakeEvents:
    """Fakes `api.given.EventLog`; `broken` is raised instead."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.broken: Exception | None = None

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        if self.broken is not None:
            raise self.broken
        return self.store.events(after, limit, wanted)


class FakeKeys:
    """Fakes `api.given.KeyControl`. Attributes are for tests to set and look at."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.uses: dict[str, KeyUse] = {}
        self.graces: list[float] = []

    async def create(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
        key, digest = self._secret()
        record = KeyRecord(id=digest[:8], sha256=digest, created_at=AT, **values(terms))
        self.store.add_key(record)
        return record, key

    def _secret(self) -> tuple[str, str]:
        key = f"pk-{self.store.next_counter('key')}"
        return key, hashlib.sha256(key.encode()).hexdigest()

    def keys(self) -> Sequence[KeyRecord]:
        return self.store.keys()

    def key(self, key_id: str) -> KeyRecord:
        return self.store.key(key_id)

    async def show(self, key_id: str) -> KeyView:
        return KeyView(self.store.key(key_id), self.uses.get(key_id))

    async def update(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        record = dataclasses.replace(self.store.key(key_id), **values(terms))
        self.store.update_key(record)
        return record

    async def rotate(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        self.graces.append(grace_seconds)
        key, digest = self._secret()
        old = self.store.key(key_id)
        record = dataclasses.replace(
            old, sha256=digest, previous_sha256=old.sha256, previous_until=AT
        )
        self.store.update_key(record)
        return record, key

    async def remove(self, key_id: str) -> None:
        self.store.remove_key(key_id)


class FakeDaemon:
    """Fakes what a service has of the daemon itself."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.not_ready: dict[str, str] = {}
        self.shut_down: list[bool] = []

    def problems(self) -> Mapping[str, str]:
        return self.not_ready

    async def text(self) -> str:
        return "partitiond_up 1\n"

    async def until_writable(self) -> None:
        self.store.wait_until_writable(0.0)

    async def shutdown(self, *, stop_engines: bool) -> None:
        self.shut_down.append(stop_engines)


class FakePlans:
    """Fakes `api.given.PlanControl`. Attributes are for tests to set and look at."""

    def __init__(self, store: Store, devices: tuple[Device, ...]) -> None:
        self.store = store
        self.devices = devices
        self.infeasible: Infeasible | None = None
        self.questions: list[answers.PlanQuestion] = []
        self.error: Exception | None = None
        self.solving = asyncio.Event()
        self.solving.set()
        self.ended_early = asyncio.Event()

    async def preview(
        self,
        question: answers.PlanQuestion | None = None,
        on_progress: Callable[[answers.PlanProgress], None] | None = None,
    ) -> PlanPreview:
        asked = question or answers.PlanQuestion()
        self.questions.append(asked)
        objective = asked.objective or Objective.MIN_DEVICES
        if on_progress is not None:
            on_progress(answers.PlanProgress("the plan", objective=objective, value=2.0, bound=1.0))
            await self._solving()
        if self.error is not None:
            raise self.error
        certificate = Certificate(objective, 0.0, 0.0, 0.0, Status.OPTIMAL, "exact", 0.0)
        name, why = f"plan-{self.store.next_counter('plan')}", ("nothing is registered",)
        plan = Plan(name, (), self.devices, (), (), certificate, why, AT)
        others = tuple(
            answers.Alternative(text, answers.figures_of(plan), 0.0) for text in asked.what_if
        )
        return PlanPreview(
            plan, PlanDiff((), (), (), ()), self.infeasible, answers.PlanAnswers(what_if=others)
        )

    async def _solving(self) -> None:
        """Until the test lets it go; told when it is ended instead."""
        try:
            await self.solving.wait()
        except asyncio.CancelledError:
            self.ended_early.set()
            raise

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        preview = await self.preview()
        if plan_id is not None and plan_id != "plan-1":
            raise ConflictError(f"plan {plan_id} is outdated.", hint="Make a fresh one.")
        self.store.set_plan(preview.plan)
        return preview

    def applied(self) -> Plan | None:
        return self.store.plan()

    def waiting(self) -> PlanPreview | None:
        return None


class FakeOverview(OverviewUseCases):
    """Shows no replicas in its overviews, and lists two; `windows` are those asked for."""

    def __init__(self, **sources: Any) -> None:
        self.windows: list[float] = []
        super().__init__(Sources(placed=tuple, waiting_plan=str, window=self._window, **sources))

    def _window(self, seconds: float) -> TrafficWindow:
        self.windows.append(seconds)
        return NO_WINDOW

    def replicas(self) -> Sequence[ReplicaView]:
        partition = CpuCores("cpu", Bytes(1 << 30), (0,))
        return [
            ReplicaView(
                f"{m}-1", f"{m}-1", m, "cpu", partition, "serving", 7, 0, 8, 1 << 30, 1, False
            )
            for m in ("a", "b")
        ]


class FakeFit:
    """Everything fits that is not called "huge"."""

    def __init__(self, store: Store, plans: FakePlans) -> None:
        self._store = store
        self._plans = plans
        self.planned_with: list[tuple[str, ...]] = []

    async def check(self, spec: ModelSpec) -> Fit:
        known = {record.spec.name for record in self._store.models()}
        fits = spec.name != "huge"
        preview = await self._plans.preview()
        return Fit(spec.name, fits, ("as told.",), spec.name in known, preview, ())

    async def plan_with(
        self, specs: Sequence[ModelSpec], *, allow_outage: bool = False
    ) -> PlanPreview:
        self.planned_with.append(tuple(spec.name for spec in specs))
        return await self._plans.preview(answers.PlanQuestion(allow_outage=allow_outage))


class FakeService:
    """Names the fakes of all use cases, which share one store."""

    def __init__(self) -> None:
        store, clock = open_store(":memory:"), FakeClock()
        self.store, self.clock = store, clock
        self.daemon = self.readiness = self.metrics = self.store_waits = FakeDaemon(store)
        self.devices = self.cordons = FakeDevices()
        self.hosts, self.models, self.jobs = FakeHosts(), FakeModels(store), FakeJobs(store)
        self.plans, self.profiles = FakePlans(store, (CPU,)), FakeProfiles(store)
        self.events, self.keys, self.drift = FakeEvents(store), FakeKeys(store), FakeDrift()
        self.overview = FakeOverview(
            store=store,
            clock=clock,
            devices=lambda: self.plans.devices,
            plan=self.plans.applied,
            models=self.models.models,
            jobs=store.jobs,
            problems=self.daemon.problems,
            hosts=self.hosts.views,
        )
        self.fit, self.scaling = FakeFit(store, self.plans), FakeScaling()
        self.usage = UsageUseCases(
            store=store, clock=clock, shares=dict, latest=lambda: None, keep_days=0
        )
        self.releases, self.convergence = FakeReleases(), FakeConvergence()

    @property
    def for_api(self) -> Service:
        """As the API takes it: it calls no more than these fakes have."""
        return cast(Service, self)

    def close(self) -> None:
        self.store.close()


def values(terms: KeyTerms) -> dict[str, Any]:
    return {field.name: getattr(terms, field.name) for field in dataclasses.fields(KeyTerms)}
