"""Provides `ControlClient`: the control API's operations as methods, answers as core types."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Final

from partitiond import serde
from partitiond.client.bodies import (
    filter_query,
    given,
    key_body,
    plan_body,
    quoted,
    registration_body,
    spec_body,
)
from partitiond.client.connection import Connection
from partitiond.client.errors import from_problem, unreachable
from partitiond.client.operations import Operation
from partitiond.core.drift.correction import Correction
from partitiond.core.errors import NotFoundError, NotReadyError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyRecord, KeyTerms
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Objective, Plan
from partitiond.core.profile.jobs import Job, ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.core.replica.convergence import Convergence
from partitiond.core.replica.releases import Release
from partitiond.core.views.drift import DriftReport
from partitiond.core.views.lists import (
    KeyView,
    ModelView,
    ProfileView,
    ReplicaView,
)
from partitiond.core.views.overview import Overview
from partitiond.core.views.preview import PlanPreview
from partitiond.core.views.scaling import ScalingView
from partitiond.core.views.usage import UsageReport

LONG_TIMEOUT_SECONDS: Final = 180.0
"""For calls that solve a plan or wait until an engine is gone."""
_FIXED: Final = ("name", "weights")
"""Fields that a registered model cannot change."""


class ControlClient(Connection):
    """A synchronous client. Use it as a context manager, or `close` it.

    Every method raises the PartitiondError that the daemon answered with (NotFoundError,
    ConflictError, SpecError, ...), UnauthorizedError for a wrong token, DaemonUnreachableError if
    no daemon is there, and DaemonTimeoutError if the daemon does not answer in time. What the
    operations of the table do is described by the API (docs/reference/api.md).

    Attributes:
        token: the admin token; may be set later, for example once the daemon has made it.
    """

    # --- as the API has them -----------------------------------------------------------------

    models = Operation(list[ModelView], "GET", "/models")
    model = Operation(ModelView, "GET", "/models/{name}")
    sleep = Operation(ModelView, "POST", "/models/{name}/sleep", "level")
    wake = Operation(ModelView, "POST", "/models/{name}/wake")
    releases = Operation(list[Release], "GET", "/models/{name}/releases")
    roll_back = Operation(Release, "POST", "/models/{name}/rollback", "version")
    scaling_of = Operation(ScalingView, "GET", "/scaling/{model}")
    jobs = Operation(list[Job], "GET", "/jobs")
    job = Operation(Job, "GET", "/jobs/{job_id}")
    cancel_job = Operation(Job, "DELETE", "/jobs/{job_id}", timeout=LONG_TIMEOUT_SECONDS)
    profile_views = Operation(list[ProfileView], "GET", "/profiles", "model")
    profile_by_id = Operation(Profile, "GET", "/profiles/{profile_id}")
    drift = Operation(DriftReport, "GET", "/drift")
    lift_correction = Operation(Correction, "DELETE", "/drift/corrections/{profile_id}")
    convergence = Operation(Convergence, "GET", "/plan/convergence", "plan_id")
    overview = Operation(Overview, "GET", "/overview", "window_seconds")
    replicas = Operation(list[ReplicaView], "GET", "/replicas", "model")
    devices = Operation(list[Device], "GET", "/devices")
    device = Operation(DeviceDetails, "GET", "/devices/{device_id}")
    cordon = Operation(Device, "PUT", "/devices/{device_id}/cordon", "reason")
    uncordon = Operation(Device, "DELETE", "/devices/{device_id}/cordon")
    hosts = Operation(list[HostView], "GET", "/hosts")
    forget_host = Operation(NoneType, "DELETE", "/hosts/{name}")
    keys = Operation(list[KeyRecord], "GET", "/keys")
    key = Operation(KeyView, "GET", "/keys/{key_id}")
    remove_key = Operation(NoneType, "DELETE", "/keys/{key_id}")

    # --- models ------------------------------------------------------------------------------

    def register(
        self, model: Mapping[str, Any] | ModelSpec, *, dry_run: bool = False
    ) -> ModelRecord:
        """Register a model: a body of POST /models, or a specification.

        A relative folder is relative to this process's working folder. `dry_run` registers nothing.
        """
        body = registration_body(model)
        return self._send(ModelRecord, "POST", "/models", body=body, query=_dry(dry_run))

    def update(
        self,
        name: str,
        changes: Mapping[str, Any] | ModelSpec,
        version: int | None = None,
        *,
        dry_run: bool = False,
    ) -> ModelRecord:
        """Change a model: by a merge patch, or a whole specification (its name and weights are
        ignored).

        Args:
            version: refuse (PreconditionFailedError) if the model has another version.
            dry_run: change nothing; return what would be stored.
        """
        if isinstance(changes, ModelSpec):
            body = spec_body(changes)
            changes = {key: value for key, value in body.items() if key not in _FIXED}
        return self._send(
            ModelRecord,
            "PATCH",
            f"/models/{quoted(name)}",
            body=dict(changes),
            version=version,
            query=_dry(dry_run),
        )

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a model; its replicas are drained and stopped."""
        self._call("DELETE", f"/models/{quoted(name)}", version=version)

    def profile(self, name: str, options: ProfileOptions | None = None) -> Job:
        """Queue a profile job."""
        body = serde.to_jsonable(options or ProfileOptions())
        return self._send(Job, "POST", f"/models/{quoted(name)}/profile", body=body)

    # --- profiles ----------------------------------------------------------------------------

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Return the profiles, newest first."""
        return [view.profile for view in self.profile_views(model)]

    def profile_view(self, profile_id: str) -> ProfileView:
        """Return one profile, with the reasons why it is stale. Raises NotFoundError."""
        views = self._get(list[ProfileView], "/profiles", {"id": profile_id})
        # If there is no such profile, this call raises the daemon's own error.
        return views[0] if views else ProfileView(self.profile_by_id(profile_id))

    def import_profile(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Store a profile made elsewhere. Raises ConflictError if another profile has its id."""
        query = {"replace": "true"} if replace else None
        return self._send(
            Profile, "POST", "/profiles", body=serde.to_jsonable(profile), query=query
        )

    # --- plan --------------------------------------------------------------------------------

    def plan(
        self,
        question: PlanQuestion | Objective | str | None = None,
        on_progress: Callable[[PlanProgress], None] | None = None,
    ) -> PlanPreview:
        """Make a plan without applying it (dry run).

        Args:
            question: the question for the planner; an objective alone is one, too.
            on_progress: called as the solve goes on. If the call is interrupted, the solve ends.

        Raises:
            InputError: a what-if names something that does not exist, or cannot be read.
            DaemonUnreachableError: also if the daemon ends before there is a plan.
        """
        for name, data in self._stream("POST", "/plan", body=plan_body(question)):
            if name == "progress" and on_progress is not None:
                on_progress(self._read(PlanProgress, data))
            elif name == "problem":
                raise from_problem(self.base_url, 422, data)
            elif name == "plan":
                return self._read(PlanPreview, data)
        raise unreachable(self.base_url, "it ended before there was a plan")

    def plan_with(self, models: Sequence[ModelSpec], *, allow_outage: bool = False) -> PlanPreview:
        """Make a plan as if these models were registered so; it cannot be applied.

        Without any it is the plan of what is registered.
        """
        body: dict[str, Any] = {"models": [registration_body(model) for model in models]}
        if allow_outage:
            body["allow_outage"] = True
        return self._send(PlanPreview, "POST", "/plan", body=body, timeout=LONG_TIMEOUT_SECONDS)

    def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        """Apply a previewed plan, or a fresh one. Raises ConflictError if it is outdated."""
        body: dict[str, Any] = {} if plan_id is None else {"plan_id": plan_id}
        if allow_outage:
            body["allow_outage"] = True
        return self._send(
            PlanPreview, "POST", "/plan/apply", body=body, timeout=LONG_TIMEOUT_SECONDS
        )

    def current_plan(self) -> Plan | None:
        """Return the applied plan, or None."""
        try:
            return self._get(Plan, "/plan")
        except NotFoundError:
            return None

    def waiting_plan(self) -> PlanPreview | None:
        """Return the plan that waits for `apply`, with its changes, or None."""
        try:
            return self._get(PlanPreview, "/plan/waiting")
        except NotFoundError:
            return None

    # --- keys, end ---------------------------------------------------------------------------

    def create_key(
        self,
        label: str = "",
        models: Sequence[str] = (),
        *,
        terms: Mapping[str, Any] | None = None,
    ) -> tuple[KeyRecord, str]:
        """Create an API key; return its record, and the key itself, which is shown only now.

        Args:
            label, models: the fields that most keys need.
            terms: further terms of the key, as in a body of POST /keys.
        """
        body = {"label": label, "models": list(models), **(terms or {})}
        return self._new_key(self._call("POST", "/keys", body=body))

    def _new_key(self, content: bytes) -> tuple[KeyRecord, str]:
        made: dict[str, Any] = self._read(dict[str, Any], content)
        return serde.from_jsonable(KeyRecord, made["record"]), str(made["key"])

    def update_key(self, key_id: str, changes: Mapping[str, Any] | KeyTerms) -> KeyRecord:
        """Change a key's terms by a merge patch or a whole set; the change takes effect at once."""
        path = f"/keys/{quoted(key_id)}"
        return self._send(KeyRecord, "PATCH", path, body=key_body(changes))

    def rotate_key(self, key_id: str, grace_seconds: float = 3600.0) -> tuple[KeyRecord, str]:
        """Make a new secret for a key; the present one stays valid until the grace ends.

        Raises ConflictError if the key has expired.
        """
        path = f"/keys/{quoted(key_id)}/rotate"
        body = {"grace_seconds": grace_seconds}
        return self._new_key(self._call("POST", path, body=body))

    # --- views -------------------------------------------------------------------------------

    def readiness(self) -> Mapping[str, str]:
        """Return why parts are not ready, by part, empty if ready; without token one "daemon"."""
        try:
            self._call("GET", "/readyz")
        except NotReadyError as error:
            why_not = {part: str(why) for part, why in error.facts.items()}
            return why_not or {"daemon": f"{error.message} {error.hint}".strip()}
        return {}

    def metrics(self) -> str:
        """Return metrics in Prometheus's text format."""
        return self._call("GET", "/metrics").decode()

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Return events, oldest first."""
        query = {"after": after, "limit": limit, **filter_query(wanted)}
        return self._get(list[Event], "/events", query)

    def usage(
        self, since: str | None = None, until: str | None = None, by: Sequence[str] = ()
    ) -> UsageReport:
        """Return the use of models by keys between two times (ISO 8601), by key and model."""
        query = given(to=until, by=list(by) or None) | ({"from": since} if since else {})
        return self._get(UsageReport, "/usage", query)

    def watch_convergence(self, plan_id: str | None = None) -> Iterator[Convergence]:
        """Yield the progress now and each time it changes.

        The iterator ends once the plan is no longer converging, or when the daemon ends: the last
        item tells which. Closing the iterator closes the stream.

        Raises:
            NotFoundError: no plan of that id was applied.
            DaemonUnreachableError: the stream broke.
            DaemonTimeoutError: the daemon did not answer in time.
        """
        return self._watch(Convergence, "/plan/convergence", given(plan_id=plan_id))

    def shutdown(self, *, stop_engines: bool = False, timeout: float | None = None) -> None:
        """Ask the daemon to end, which it does after the answer."""
        body = {"stop_engines": stop_engines}
        self._call("POST", "/shutdown", body=body, timeout=timeout)


def _dry(dry_run: bool) -> dict[str, str] | None:
    return {"dry_run": "true"} if dry_run else None
