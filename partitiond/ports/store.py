"""Defines the store: models, profiles, jobs, plans, events, keys and more, kept on disk."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from partitiond.core.drift.detection import LedgerEntry
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.keys.record import KeyRecord
from partitiond.core.keys.usage import HOUR_LENGTH, UsagePosition, UsageRecord, Used
from partitiond.core.model.record import ModelRecord
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job
from partitiond.core.profile.record import Profile
from partitiond.core.replica.releases import Release
from partitiond.core.unread import UnreadBody


class Store(Protocol):
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

    def add_ledger_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Append all of them or none. Beyond the bounds, the oldest entries of a replica and the
        oldest of all are dropped.
        """
        ...

    def ledger(
        self, *, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return entries, newest first."""
        ...

    def put_release(self, release: Release) -> None:
        """Add or replace by model and version."""
        ...

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Return releases of one model, or of all, newest version first."""
        ...

    def forget_releases(self, model: str) -> None:
        """Delete the releases of a model that is gone."""
        ...

    def applied_plans(self, limit: int) -> Sequence[Plan]:
        """Return plans that were applied, newest first, including the present one."""
        ...

    def add_usage(
        self,
        hour: str,
        used: Mapping[tuple[str, str], Used],
        position: UsagePosition,
        host: str = "",
        others: Mapping[str, UsagePosition] | None = None,
    ) -> None:
        """Add to the hour what each (key, model) used, and move the positions; all or nothing.

        Args:
            hour: as in `UsageRecord`.
            used: by key and model.
            position: of the own host's proxy.
            host: the own host's name; empty if there is no other.
            others: positions of the proxies of other hosts, by host; None leaves them.
        """
        ...

    def usage_position(self) -> UsagePosition:
        """Return the position up to which the proxy's counts are booked; empty at first."""
        ...

    def usage_positions(self) -> Mapping[str, UsagePosition]:
        """Return the positions of all hosts' proxies, by host; "" if there was only one host."""
        ...

    def usage(
        self,
        first_hour: str,
        last_hour: str,
        period_length: int = HOUR_LENGTH,
        *,
        by_key: bool = True,
        by_model: bool = True,
    ) -> Sequence[UsageRecord]:
        """Return the sums of these hours, both included, by period, key and model.

        May take seconds: for another thread than the event loop's.

        Args:
            first_hour, last_hour: as in `UsageRecord`.
            period_length: characters of an hour that name what a sum is of; 0 for one sum.
            by_key, by_model: whether each has a sum of its own.
        """
        ...

    def drop_usage(self, before_hour: str) -> int:
        """Delete the hours before this one; returns how many records were deleted."""
        ...
