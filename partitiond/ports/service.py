"""Defines the use cases of the control plane."""

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
from partitiond.core.views.lists import (
    KeyView,
    ModelView,
    ProfileView,
    PrunableProfile,
    ReplicaView,
)
from partitiond.core.views.preview import PlanPreview
from partitiond.ports.convergence import Convergences
from partitiond.ports.drift import DriftControl
from partitiond.ports.fit import FitCheck
from partitiond.ports.overview import Overviews
from partitiond.ports.releases import Releases
from partitiond.ports.scaling import Scalings
from partitiond.ports.usage import Usages


class ControlService(Protocol):
    """The use cases of the control plane; the API is a thin layer over it."""

    overview: Overviews
    drift: DriftControl
    fit: FitCheck
    usage: Usages
    scaling: Scalings
    releases: Releases
    convergence: Convergences

    async def until_writable(self) -> None:
        """Wait until no other process locks the store. Raises StoreBusyError."""
        ...

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
        """Queue a profile job."""
        ...

    def jobs(self) -> Sequence[Job]:
        """Return the jobs, newest first."""
        ...

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        ...

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel the job; returns once nothing of it runs."""
        ...

    def watch_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield the job now and at each change, until it has ended. Raises NotFoundError."""
        ...

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Return profiles, newest first."""
        ...

    def profile_by_id(self, profile_id: str) -> Profile:
        """Return one profile. Raises NotFoundError."""
        ...

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Return profiles, newest first, each with the reasons why it is stale."""
        ...

    def profile_view(self, profile_id: str) -> ProfileView:
        """Return one profile with the reasons why it is stale. Raises NotFoundError."""
        ...

    def import_profile(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Store a profile made elsewhere. Raises ConflictError if another has its id."""
        ...

    def prune_profiles(self, *, delete: bool) -> Sequence[PrunableProfile]:
        """Return the superseded and stale profiles that no plan uses; `delete` removes them."""
        ...

    async def plan(
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

    def current_plan(self) -> Plan | None:
        """Return the applied plan."""
        ...

    def waiting_plan(self) -> PlanPreview | None:
        """Return the plan that the daemon made by itself and that waits for `apply`."""
        ...

    def replicas(self) -> Sequence[ReplicaView]:
        """Return all replicas, including stopped and failed ones that are still wanted."""
        ...

    def devices(self) -> Sequence[Device]:
        """Return devices of this host."""
        ...

    async def device(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device. Raises NotFoundError, DeviceError."""
        ...

    async def cordon(self, device_id: str, reason: str) -> Device:
        """Place nothing on the device from now on. Raises NotFoundError."""
        ...

    async def uncordon(self, device_id: str) -> Device:
        """Remove an operator's cordon. Raises NotFoundError."""
        ...

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Return events, oldest first."""
        ...

    async def create_key(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
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

    async def key_view(self, key_id: str) -> KeyView:
        """Return one key with its use so far. Raises NotFoundError."""
        ...

    async def update_key(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        """Change what a key may do. Raises NotFoundError, InputError."""
        ...

    async def rotate_key(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        """Make another secret for the key; the present one is accepted until the grace ends.

        Raises NotFoundError, InputError, and ConflictError if the key has expired.
        """
        ...

    async def remove_key(self, key_id: str) -> None:
        """Remove a key. Raises NotFoundError."""
        ...

    def readiness(self) -> Mapping[str, str]:
        """Empty if ready; else the parts (proxy, store, loop) that are not, with the reason."""
        ...

    async def metrics(self) -> str:
        """Return the metrics as Prometheus text."""
        ...

    async def shutdown(self, *, stop_engines: bool) -> None:
        """End the loop, the jobs, and (if asked) engines and proxy."""
        ...
