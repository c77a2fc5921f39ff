"""Defines the store: models, profiles, jobs, plans, events and keys, kept on disk."""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from partitiond.core.keys.record import KeyTerms
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan
from partitiond.core.profile.record import Profile
from partitiond.ports.drift import Ledger
from partitiond.ports.event_filter import EVERY_EVENT, EventFilter
from partitiond.ports.profiling import Progress
from partitiond.ports.releases import ReleaseStore
from partitiond.ports.usage import UsageStore


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model as stored.

    Attributes:
        version: grows with each change; the API's ETag.
        created_at, updated_at: ISO 8601 UTC.
    """

    spec: ModelSpec
    version: int
    created_at: str
    updated_at: str


class JobState(enum.StrEnum):
    """Life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""States of a job that has ended; a job in any other state is open."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A long-running piece of work: today, profiling.

    Attributes:
        kind: "profile".
        subject: model name.
        params: what was asked (device id, cores, max_batch, time limit, seed).
        result: id of the profile it made.
        error: message and hint when it failed.
        reason: why the chain queued it by itself; it takes it back when the reason vanishes while
            the job waits. Empty where somebody asked for it.
        device_id: where it runs or ran; of a job that waits, where the interrupted one ran that it
            goes on from. Empty where it never ran.
        hardware: of the device that was asked for; any other of it does as well, unless the params
            say otherwise. Empty where that was not known.
    """

    id: str
    kind: str
    subject: str
    state: JobState
    created_at: str
    updated_at: str
    progress: Progress
    params: tuple[tuple[str, str], ...] = ()
    result: str | None = None
    error: str = ""
    reason: str = ""
    device_id: str = ""
    hardware: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and why, kept in the store.

    Attributes:
        id: grows by one.
        kind: "model-registered", "plan-applied", "engine-exited", ...
        subject: model, replica, job or key it is about.
        actor: who asked for it, as "ada@laptop"; empty where partitiond did it by itself.
    """

    id: int
    at: str
    kind: str
    subject: str
    message: str
    actor: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord(KeyTerms):
    """An API key as stored: its SHA-256, never the key.

    Attributes:
        id: short public name, in logs and metrics, too.
        created_at, updated_at: ISO 8601 UTC.
        previous_sha256: of the secret before the last rotation; empty where there is none.
        previous_until: ISO 8601 UTC until which that one is taken as well.
    """

    id: str
    sha256: str
    created_at: str
    updated_at: str = ""
    previous_sha256: str = ""
    previous_until: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class UnreadBody:
    """A row whose body cannot be read: it is set aside and left unchanged.

    Attributes:
        what: "plan plan-7", "model opt-125m", "key ada".
        problem: which fields are missing or of another form.
    """

    what: str
    problem: str


class Store(Ledger, UsageStore, ReleaseStore, Protocol):
    """Models, profiles, jobs, plans, events and keys on disk. One writer; each call is atomic.

    Every call is one transaction. Lists leave out rows that cannot be read; `unread` names them.
    """

    def unread(self) -> Sequence[UnreadBody]:
        """Rows that were found unreadable since the store was opened, each once."""
        ...

    def wait_until_writable(self, seconds: float) -> None:
        """Wait in this thread until no other process holds the store's lock.

        Raises:
            StoreBusyError: another process holds the lock for so many seconds.
        """
        ...

    def add_model(self, record: ModelRecord) -> None:
        """Add a model. Raises ConflictError if the name is taken."""
        ...

    def models(self) -> Sequence[ModelRecord]:
        """Return all models, by name."""
        ...

    def model(self, name: str) -> ModelRecord:
        """Return one model. Raises NotFoundError."""
        ...

    def update_model(self, record: ModelRecord, *, expected_version: int) -> None:
        """Replace a model. Raises ConflictError if the stored version is another."""
        ...

    def remove_model(self, name: str) -> None:
        """Remove a model; its measured profiles stay (they are costly). Raises NotFoundError."""
        ...

    def add_profile(self, profile: Profile) -> None:
        """Add or replace a profile by id."""
        ...

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Return profiles, newest first."""
        ...

    def profile(self, profile_id: str) -> Profile:
        """Return one profile. Raises NotFoundError."""
        ...

    def remove_profiles(self, profile_ids: Collection[str]) -> None:
        """Delete those of these profiles that exist."""
        ...

    def put_job(self, job: Job) -> None:
        """Add or replace by id. Old jobs are dropped once they have ended, never while open."""
        ...

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        ...

    def jobs(self, limit: int | None = 100) -> Sequence[Job]:
        """Return jobs, newest first; all if `limit` is None."""
        ...

    def set_plan(self, plan: Plan) -> None:
        """Make this the applied (desired) plan."""
        ...

    def plan(self) -> Plan | None:
        """The applied plan; None if there is none, or if the last one cannot be read."""
        ...

    def add_event(
        self, at: str, kind: str, subject: str, message: str, *, actor: str = ""
    ) -> Event:
        """Append an event."""
        ...

    def add_events(self, events: Sequence[Event]) -> Sequence[Event]:
        """Append all of them, or none; returns them with their ids, which are 0 in `events`."""
        ...

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Oldest first, with ids greater than `after`; without it (and `since`) the newest."""
        ...

    def add_key(self, key: KeyRecord) -> None:
        """Add a key. Raises ConflictError if the id is taken."""
        ...

    def keys(self) -> Sequence[KeyRecord]:
        """Return all keys, oldest first."""
        ...

    def key(self, key_id: str) -> KeyRecord:
        """Return one key. Raises NotFoundError."""
        ...

    def update_key(self, key: KeyRecord) -> None:
        """Replace a key by id. Raises NotFoundError."""
        ...

    def remove_key(self, key_id: str) -> None:
        """Remove a key. Raises NotFoundError."""
        ...

    def marks(self, kind: str) -> Mapping[str, str]:
        """Value by subject of all marks of a kind ("cordon": reason by device id)."""
        ...

    def set_mark(self, kind: str, subject: str, value: str | None, at: str = "") -> None:
        """Add or replace a mark; None removes it, and is no error if there is none.

        Args:
            at: when, ISO 8601 UTC.
        """
        ...

    def next_counter(self, name: str) -> int:
        """A number that grows by one with each call and survives restarts (routing version)."""
        ...

    def close(self) -> None:
        """Write the log back into the file, and release it."""
        ...
