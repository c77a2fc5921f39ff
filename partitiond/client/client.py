"""Provides `ControlClient`: the control API's operations as methods, answers as core types."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from partitiond import serde
from partitiond.client.bodies import (
    given,
    key_body,
    plan_body,
    quoted,
    registration_body,
    spec_body,
)
from partitiond.client.errors import from_problem, unreachable
from partitiond.client.views import ViewCalls
from partitiond.core.errors import NotFoundError
from partitiond.core.keys.record import KeyRecord, KeyTerms
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Objective, Plan
from partitiond.core.profile.jobs import Job, ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.core.replica.releases import Release
from partitiond.core.views.lists import (
    KeyView,
    ModelView,
    ProfileView,
)
from partitiond.core.views.preview import PlanPreview

LONG_TIMEOUT_SECONDS: Final = 180.0
"""For calls that solve a plan or wait until an engine is gone."""
_FIXED: Final = ("name", "weights")
"""Fields that a registered model cannot change."""


class ControlClient(ViewCalls):
    """A synchronous client. Use it as a context manager, or `close` it.

    Every method raises the PartitiondError that the daemon answered with (NotFoundError,
    ConflictError, SpecError, ...), UnauthorizedError for a wrong token, DaemonUnreachableError if
    no daemon is there, and DaemonTimeoutError if the daemon does not answer in time.

    Attributes:
        token: the admin token; may be set later, for example once the daemon has made it.
    """

    # --- models ------------------------------------------------------------------------------

    def register(
        self, model: Mapping[str, Any] | ModelSpec, *, dry_run: bool = False
    ) -> ModelRecord:
        """Register a model: a body of POST /models, or a specification.

        A relative folder is relative to this process's working folder. `dry_run` registers nothing.
        """
        body = registration_body(model)
        return self._send(ModelRecord, "POST", "/models", body=body, query=_dry(dry_run))

    def models(self) -> Sequence[ModelView]:
        """Return all models, by name."""
        return self._get(list[ModelView], "/models")

    def model(self, name: str) -> ModelView:
        """Return one model. Raises NotFoundError."""
        return self._get(ModelView, f"/models/{quoted(name)}")

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

    def sleep(self, name: str, level: int = 1) -> ModelView:
        """Put a model to sleep; requests in flight finish first. Raises ConflictError."""
        path = f"/models/{quoted(name)}/sleep"
        return self._send(ModelView, "POST", path, body={"level": level})

    def wake(self, name: str) -> ModelView:
        """Wake a model."""
        return self._send(ModelView, "POST", f"/models/{quoted(name)}/wake")

    def profile(self, name: str, options: ProfileOptions | None = None) -> Job:
        """Queue a profile job."""
        body = serde.to_jsonable(options or ProfileOptions())
        return self._send(Job, "POST", f"/models/{quoted(name)}/profile", body=body)

    def releases(self, name: str) -> Sequence[Release]:
        """Return the releases of a model, newest first. Raises NotFoundError."""
        return self._get(list[Release], f"/models/{quoted(name)}/releases")

    def roll_back(self, name: str, version: int | None = None) -> Release:
        """Go back to a release, by default to the previous one. Raises ConflictError."""
        body = {} if version is None else {"version": version}
        return self._send(Release, "POST", f"/models/{quoted(name)}/rollback", body=body)

    # --- jobs and profiles -------------------------------------------------------------------

    def jobs(self) -> Sequence[Job]:
        """Return the jobs, newest first."""
        return self._get(list[Job], "/jobs")

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        return self._get(Job, f"/jobs/{quoted(job_id)}")

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job; return once nothing of it runs any more."""
        path = f"/jobs/{quoted(job_id)}"
        return self._send(Job, "DELETE", path, timeout=LONG_TIMEOUT_SECONDS)

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Return the profiles, newest first."""
        return [view.profile for view in self.profile_views(model)]

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Return the profiles, newest first, each with the reasons why it is stale."""
        return self._get(list[ProfileView], "/profiles", given(model=model))

    def profile_view(self, profile_id: str) -> ProfileView:
        """Return one profile, with the reasons why it is stale. Raises NotFoundError."""
        views = self._get(list[ProfileView], "/profiles", {"id": profile_id})
        # If there is no such profile, this call raises the daemon's own error.
        return views[0] if views else ProfileView(self.profile_by_id(profile_id))

    def profile_by_id(self, profile_id: str) -> Profile:
        """Return one profile. Raises NotFoundError."""
        return self._get(Profile, f"/profiles/{quoted(profile_id)}")

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

    def keys(self) -> Sequence[KeyRecord]:
        """Return all keys, oldest first."""
        return self._get(list[KeyRecord], "/keys")

    def key(self, key_id: str) -> KeyView:
        """Return one key and its use. Raises NotFoundError."""
        return self._get(KeyView, f"/keys/{quoted(key_id)}")

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

    def remove_key(self, key_id: str) -> None:
        """Remove a key: refuse requests with it from now on. Raises NotFoundError."""
        self._call("DELETE", f"/keys/{quoted(key_id)}")

    def shutdown(self, *, stop_engines: bool = False, timeout: float | None = None) -> None:
        """Ask the daemon to end, which it does after the answer."""
        body = {"stop_engines": stop_engines}
        self._call("POST", "/shutdown", body=body, timeout=timeout)


def _dry(dry_run: bool) -> dict[str, str] | None:
    return {"dry_run": "true"} if dry_run else None
