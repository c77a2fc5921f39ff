"""Defines the store: models, profiles, jobs, plans, events and keys, kept on disk."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job
from partitiond.core.profile.record import Profile
from partitiond.core.unread import UnreadBody
from partitiond.ports.drift import Ledger
from partitiond.ports.releases import ReleaseStore
from partitiond.ports.usage import UsageStore


class Store(Ledger, UsageStore, ReleaseStore, Protocol):
    """Models, profiles, jobs, plans, events and keys on disk. One writer; each call is atomic.

    Every call is one transaction. Lists leave out rows that cannot be read; `unread` names them.
    """

    def unread(self) -> Sequence[UnreadBody]:
        """Return rows that were found unreadable since the store was opened, each once."""
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
        """Return the applied plan; None if there is none, or if the last one cannot be read."""
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
        """Return the value by subject of all marks of a kind ("cordon": reason by device id)."""
        ...

    def set_mark(self, kind: str, subject: str, value: str | None, at: str = "") -> None:
        """Add or replace a mark; None removes it, and is no error if there is none.

        Args:
            at: when, ISO 8601 UTC.
        """
        ...

    def next_counter(self, name: str) -> int:
        """Return a number that grows by one with each call and survives restarts (routing
        version).
        """
        ...

    def close(self) -> None:
        """Write the log back into the file, and release it."""
        ...
