"""Provides `ControlClient`: the control API's operations as methods, answers as core types."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from partitiond import serde
from partitiond.client.bodies import (
    encoded,
    key_body,
    plan_body,
    quoted,
    spec_body,
    with_absolute_folder,
)
from partitiond.client.convergence import ConvergenceCalls
from partitiond.client.credentials import Credentials
from partitiond.client.drift import DriftCalls
from partitiond.client.errors import from_problem, no_answer, not_ours, unreachable
from partitiond.client.events import filter_query
from partitiond.client.overview import OverviewCalls
from partitiond.client.releases import ReleaseCalls
from partitiond.client.scaling import ScalingCalls
from partitiond.client.streams import event_data, events
from partitiond.client.usage import UsageCalls
from partitiond.core.errors import InputError, NotFoundError, NotReadyError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyRecord, KeyTerms
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Objective, Plan
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

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 3.0
LONG_TIMEOUT_SECONDS: Final = 180.0
"""For calls that solve a plan or wait until an engine is gone."""
STREAM_SILENCE_SECONDS: Final = 45.0
"""The daemon sends a heartbeat every ten seconds; a longer silence than this means it is gone."""
_FIXED: Final = ("name", "source", "weights")
"""Fields that a registered model cannot change."""


class ControlClient(
    OverviewCalls, DriftCalls, UsageCalls, ScalingCalls, ReleaseCalls, ConvergenceCalls
):
    """A synchronous client. Use it as a context manager, or `close` it.

    Every method raises the PartitiondError that the daemon answered with (NotFoundError,
    ConflictError, SpecError, ...), UnauthorizedError for a wrong token, DaemonUnreachableError if
    no daemon is there, and DaemonTimeoutError if the daemon does not answer in time.

    Attributes:
        token: the admin token; may be set later, for example once the daemon has made it.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        timeout: float = 30.0,
        *,
        actor: str = "",
        reread: Callable[[], str] | None = None,
    ) -> None:
        """Prepare the client, which connects at the first call.

        Args:
            actor: name of the caller, as "ada@laptop"; the events of its changes contain it.
            reread: reads the token from its file, empty if there is none; called while the
                client has no token, and when the daemon refuses the client's token.
        """
        self.base_url = base_url.rstrip("/")
        self._credentials = Credentials(token, actor, reread)
        self._timeout = timeout
        # HTTP proxies set in the environment are for outside hosts, not for loopback.
        self._http = httpx.Client(base_url=self.base_url, auth=self._credentials, trust_env=False)

    @property
    def token(self) -> str:
        """The token that the next call sends."""
        return self._credentials.token

    @token.setter
    def token(self, token: str) -> None:
        self._credentials.token = token

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- transport ---------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        headers: dict[str, str] = {}
        content = None if body is None else encoded(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        try:
            answer = self._http.request(
                method,
                path,
                content=content,
                params=query,
                headers=headers,
                timeout=httpx.Timeout(timeout or self._timeout, connect=CONNECT_TIMEOUT_SECONDS),
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.base_url, error, timeout or self._timeout) from error
        if not answer.is_success:
            raise from_problem(self.base_url, answer.status_code, answer.content)
        return answer.content

    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        return self._read(kind, self._call("GET", path, query=query))

    def _read(self, kind: type[T], content: bytes) -> T:
        try:
            return serde.from_json(kind, content)
        except InputError as error:
            raise not_ours(self.base_url, 200) from error

    def _watch(
        self, kind: type[T], path: str, query: Mapping[str, Any] | None = None
    ) -> Iterator[T]:
        """Yield the items of a stream of server-sent events until it ends."""
        limits = httpx.Timeout(STREAM_SILENCE_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        headers = {"Accept": "text/event-stream"}
        try:
            with self._http.stream(
                "GET", path, params=query, headers=headers, timeout=limits
            ) as answer:
                if not answer.is_success:
                    raise from_problem(self.base_url, answer.status_code, answer.read())
                for data in event_data(answer.iter_lines()):
                    yield self._read(kind, data)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.base_url, error, STREAM_SILENCE_SECONDS) from error

    # --- models ------------------------------------------------------------------------------

    def register(self, model: Mapping[str, Any] | ModelSpec) -> ModelRecord:
        """Register a model: a body of POST /models, or a specification.

        A relative folder is relative to this process's working folder.
        """
        body = spec_body(model) if isinstance(model, ModelSpec) else with_absolute_folder(model)
        return self._read(ModelRecord, self._call("POST", "/models", body=body))

    def models(self) -> Sequence[ModelView]:
        """Return all models, by name."""
        return self._get(list[ModelView], "/models")

    def model(self, name: str) -> ModelView:
        """Return one model. Raises NotFoundError."""
        return self._get(ModelView, f"/models/{quoted(name)}")

    def update(
        self, name: str, changes: Mapping[str, Any] | ModelSpec, version: int | None = None
    ) -> ModelRecord:
        """Change a model: by a merge patch, or a whole specification (its name, source, weights
        and engine kind are ignored).

        Args:
            version: refuse (PreconditionFailedError) if the model has another version.
        """
        if isinstance(changes, ModelSpec):
            body = spec_body(changes)
            changes = {key: value for key, value in body.items() if key not in _FIXED}
        path = f"/models/{quoted(name)}"
        content = self._call("PATCH", path, body=dict(changes), version=version)
        return self._read(ModelRecord, content)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a model; its replicas are drained and stopped."""
        self._call("DELETE", f"/models/{quoted(name)}", version=version)

    def sleep(self, name: str, level: int = 1) -> ModelView:
        """Put a model to sleep; requests in flight finish first. Raises ConflictError."""
        path = f"/models/{quoted(name)}/sleep"
        return self._read(ModelView, self._call("POST", path, body={"level": level}))

    def wake(self, name: str) -> ModelView:
        """Wake a model."""
        return self._read(ModelView, self._call("POST", f"/models/{quoted(name)}/wake"))

    def profile(self, name: str, options: ProfileOptions | None = None) -> Job:
        """Queue a profile job."""
        body = serde.to_jsonable(options or ProfileOptions())
        content = self._call("POST", f"/models/{quoted(name)}/profile", body=body)
        return self._read(Job, content)

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
        return self._read(Job, self._call("DELETE", path, timeout=LONG_TIMEOUT_SECONDS))

    def watch_job(self, job_id: str) -> Iterator[Job]:
        """Yield the job now and each time it changes.

        The iterator ends after the job's final state, or when the daemon ends: the last job tells
        which. Closing the iterator closes the stream.

        Raises:
            NotFoundError: there is no such job.
            DaemonUnreachableError: the stream broke.
            DaemonTimeoutError: the daemon did not answer in time.
        """
        return self._watch(Job, f"/jobs/{quoted(job_id)}/events")

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Return the profiles, newest first."""
        return [view.profile for view in self.profile_views(model)]

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Return the profiles, newest first, each with the reasons why it is stale."""
        query = None if model is None else {"model": model}
        return self._get(list[ProfileView], "/profiles", query)

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
        content = self._call("POST", "/profiles", body=serde.to_jsonable(profile), query=query)
        return self._read(Profile, content)

    def prune_profiles(self, *, delete: bool = False) -> Sequence[PrunableProfile]:
        """Return the superseded and stale profiles that no plan uses; `delete` deletes them."""
        query = {"dry_run": "false" if delete else "true"}
        return self._read(list[PrunableProfile], self._call("POST", "/profiles/prune", query=query))

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
        body = plan_body(question)
        headers = {"Accept": "text/event-stream"}
        headers["Content-Type"] = "application/json"
        limits = httpx.Timeout(STREAM_SILENCE_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        try:
            with self._http.stream(
                "POST", "/plan", content=encoded(body), headers=headers, timeout=limits
            ) as answer:
                if not answer.is_success:
                    raise from_problem(self.base_url, answer.status_code, answer.read())
                if "text/event-stream" not in answer.headers.get("Content-Type", ""):
                    raise not_ours(self.base_url, answer.status_code)
                for name, data in events(answer.iter_lines()):
                    if name == "progress" and on_progress is not None:
                        on_progress(self._read(PlanProgress, data))
                    elif name == "problem":
                        raise from_problem(self.base_url, 422, data)
                    elif name == "plan":
                        return self._read(PlanPreview, data)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.base_url, error, STREAM_SILENCE_SECONDS) from error
        raise unreachable(self.base_url, "it ended before there was a plan")

    def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        """Apply a previewed plan, or a fresh one. Raises ConflictError if it is outdated."""
        body: dict[str, Any] = {} if plan_id is None else {"plan_id": plan_id}
        if allow_outage:
            body["allow_outage"] = True
        content = self._call("POST", "/plan/apply", body=body, timeout=LONG_TIMEOUT_SECONDS)
        return self._read(PlanPreview, content)

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

    # --- observed state ----------------------------------------------------------------------

    def replicas(self, model: str | None = None) -> Sequence[ReplicaView]:
        """Return the replicas with their observed state."""
        query = None if model is None else {"model": model}
        return self._get(list[ReplicaView], "/replicas", query)

    def devices(self) -> Sequence[Device]:
        """Return the devices of the daemon's host."""
        return self._get(list[Device], "/devices")

    def device(self, device_id: str) -> DeviceDetails:
        """Return all details of one device. Raises NotFoundError."""
        return self._get(DeviceDetails, f"/devices/{quoted(device_id)}")

    def cordon(self, device_id: str, reason: str = "") -> Device:
        """Place nothing on a device from now on. Raises NotFoundError."""
        path = f"/devices/{quoted(device_id)}/cordon"
        return self._read(Device, self._call("PUT", path, body={"reason": reason}))

    def uncordon(self, device_id: str) -> Device:
        """Remove an operator's cordon, and return the device. Raises NotFoundError."""
        path = f"/devices/{quoted(device_id)}/cordon"
        return self._read(Device, self._call("DELETE", path))

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Return events, oldest first."""
        query = {"after": after, "limit": limit, **filter_query(wanted)}
        return self._get(list[Event], "/events", query)

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
        return self._read(KeyRecord, self._call("PATCH", path, body=key_body(changes)))

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
