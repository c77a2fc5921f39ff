"""Defines the use cases of the control plane, by subject, and the object that names them all."""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyRecord, KeyTerms
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import KeyView, ModelView, ProfileView, PrunableProfile
from partitiond.core.views.preview import PlanPreview
from partitiond.ports.cluster import FleetHosts
from partitiond.ports.convergence import Convergences
from partitiond.ports.drift import DriftControl
from partitiond.ports.fit import FitCheck
from partitiond.ports.overview import Overviews
from partitiond.ports.releases import Releases
from partitiond.ports.scaling import Scalings
from partitiond.ports.usage import Usages


class ModelControl(Protocol):
    """Registers models, changes and removes them, and has them profiled."""

    async def register(self, spec: ModelSpec) -> ModelRecord:
        """Register and (with `auto`) start the chain. Raises ConflictError, SpecError."""
        ...

    def models(self) -> Sequence[ModelView]:
        """Return all models."""
        ...

    def model(self, name: str) -> ModelView:
        """Return one model. Raises NotFoundError."""
        ...

    async def update(self, spec: ModelSpec, expected_version: int | None) -> ModelRecord:
        """Replace the spec of a model. Raises NotFoundError, ConflictError."""
        ...

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        """Remove the model: its replicas drain and stop."""
        ...

    def put_to_sleep(self, name: str, level: int = 1) -> ModelView:
        """Drain the model and put its engines to sleep.

        Raises:
            NotFoundError, InputError: there is no such model, or no such level.
            ConflictError: the model has no sleep mode, or sleeps at another level.
        """
        ...

    def wake(self, name: str) -> ModelView:
        """Wake the model. Raises NotFoundError."""
        ...

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        """Queue a profile job. Raises NotFoundError, InputError."""
        ...


class JobControl(Protocol):
    """Shows and cancels profile jobs."""

    def jobs(self) -> Sequence[Job]:
        """Return the newest and all open jobs, newest first."""
        ...

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Cancel the job; returns once nothing of it runs. Raises NotFoundError."""
        ...

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield the job now and at each change, until it has ended. Raises NotFoundError."""
        ...


class ProfileControl(Protocol):
    """Keeps profiles."""

    def views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Return profiles, newest first, each with the reasons why it is stale."""
        ...

    def view(self, profile_id: str) -> ProfileView:
        """Return one profile with the reasons why it is stale. Raises NotFoundError."""
        ...

    def keep(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Store a profile made elsewhere. Raises ConflictError if another has its id."""
        ...

    def prune(self, *, delete: bool) -> Sequence[PrunableProfile]:
        """Return the superseded and stale profiles that no plan uses; `delete` removes them."""
        ...


class PlanControl(Protocol):
    """Makes and applies plans."""

    async def preview(
        self,
        question: PlanQuestion | None = None,
        on_progress: Callable[[PlanProgress], None] | None = None,
    ) -> PlanPreview:
        """Plan without applying. The plan can be applied by its id while nothing has changed since.

        Raises:
            InputError: a what-if cannot be read, or names something that does not exist.
        """
        ...

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        """Apply the plan of that id, or a fresh one. Raises ConflictError if it is outdated."""
        ...

    def applied(self) -> Plan | None:
        """Return the applied plan."""
        ...

    def waiting(self) -> PlanPreview | None:
        """Return the plan that the daemon made by itself and that waits for `apply`."""
        ...


class DeviceControl(Protocol):
    """Shows the devices of all hosts."""

    @property
    def devices(self) -> Sequence[Device]:
        """The devices as last seen."""
        ...

    async def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device. Raises NotFoundError, DeviceError."""
        ...


class CordonControl(Protocol):
    """Sets and lifts operators' cordons."""

    def set(self, device_id: str, reason: str) -> Device:
        """Place nothing on the device from now on. Raises NotFoundError."""
        ...

    async def lift(self, device_id: str) -> Device:
        """Remove an operator's cordon. Raises NotFoundError."""
        ...


class EventLog(Protocol):
    """Reads the events; the store does."""

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Return the wanted events after an id, oldest first."""
        ...


class KeyControl(Protocol):
    """Makes, changes, rotates and removes API keys."""

    async def create(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
        """Make a key; returns its record and the key itself, which is shown once and not kept.

        Raises NotFoundError for a model that is not registered, InputError for an expiry in the
        past.
        """
        ...

    def keys(self) -> Sequence[KeyRecord]:
        """Return all keys, oldest first."""
        ...

    def key(self, key_id: str) -> KeyRecord:
        """Return one key. Raises NotFoundError."""
        ...

    async def show(self, key_id: str) -> KeyView:
        """Return one key with its use so far. Raises NotFoundError."""
        ...

    async def update(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        """Change what a key may do. Raises NotFoundError, InputError."""
        ...

    async def rotate(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        """Make another secret for the key; the present one is accepted until the grace ends.

        Raises NotFoundError, InputError, and ConflictError if the key has expired.
        """
        ...

    async def remove(self, key_id: str) -> None:
        """Remove a key.

        Raises NotFoundError; NotReadyError if the endpoint may still accept the key.
        """
        ...


class ReadinessCheck(Protocol):
    """Knows whether the daemon is ready."""

    def problems(self) -> Mapping[str, str]:
        """Empty if ready; else the parts (proxy, store, loop) that are not, with the reason."""
        ...


class MetricsSource(Protocol):
    """Shows the metrics."""

    async def text(self) -> str:
        """Return the metrics as Prometheus text."""
        ...


class StoreGate(Protocol):
    """Waits for the store."""

    async def until_writable(self) -> None:
        """Wait until no other process locks the store. Raises StoreBusyError."""
        ...


class DaemonControl(Protocol):
    """Ends the control plane."""

    async def shutdown(self, *, stop_engines: bool) -> None:
        """End the loop, the jobs, and (if asked) engines and proxy."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlService:
    """Names the use cases of the control plane; the API is a thin layer over them."""

    models: ModelControl
    jobs: JobControl
    profiles: ProfileControl
    plans: PlanControl
    devices: DeviceControl
    cordons: CordonControl
    hosts: FleetHosts
    events: EventLog
    keys: KeyControl
    overview: Overviews
    drift: DriftControl
    fit: FitCheck
    usage: Usages
    scaling: Scalings
    releases: Releases
    convergence: Convergences
    readiness: ReadinessCheck
    metrics: MetricsSource
    store_waits: StoreGate
    daemon: DaemonControl
