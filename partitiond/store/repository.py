"""Implements `ports.Store` on SQLite. Every call is one transaction.

What an operator asked for (models, keys, the applied plan, marks) is on disk when a call returns.
"""

import operator
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from partitiond import serde
from partitiond.core.errors import ConflictError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import ENDED, Job
from partitiond.core.profile.record import Profile
from partitiond.store.event_repository import EventRepository
from partitiond.store.ledger_repository import LedgerRepository
from partitiond.store.old_jobs import with_facts
from partitiond.store.release_repository import ReleaseRepository
from partitiond.store.sessions import PATIENCE_SECONDS, Row, Sessions, the_row
from partitiond.store.usage_repository import UsageRepository

MAX_JOBS: Final = 1_000
"""Ended jobs kept, those that ended last; jobs that wait or run are all kept."""
MAX_PLANS: Final = 50
"""Applied plans kept, for looking back."""
_MODEL: Final = "SELECT name, version, created_at, updated_at, spec FROM model"


class SqlStore(EventRepository, LedgerRepository, UsageRepository, ReleaseRepository, Sessions):
    """`ports.Store` on one SQLite file. Made by `open_store`; safe to call from any thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(connection, path, patience_seconds)
        # Read at every pass of the loop, and there may be thousands. Only used under the lock.
        self._keys: tuple[KeyRecord, ...] | None = None
        self._models: tuple[ModelRecord, ...] | None = None
        self._named: Mapping[str, ModelRecord] = {}  # the same by name
        self._profiles: tuple[Profile, ...] | None = None
        self._measured: Mapping[str, tuple[Profile, ...]] = {}  # the same by model
        self._marks: dict[str, Mapping[str, str]] = {}

    # --- models ------------------------------------------------------------------------------

    def add_model(self, record: ModelRecord) -> None:
        """Add a model. Raises ConflictError if the name is taken."""
        try:
            with self._write(durable=True) as connection:
                self._models = None
                connection.execute(
                    "INSERT INTO model VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _model_row(record)
                )
        except sqlite3.IntegrityError as error:
            name = record.spec.name
            raise ConflictError(
                f"a model named {name} is registered already.",
                hint="Change it with PATCH, remove it first, or give this one another name.",
                facts={"model": name},
            ) from error

    def models(self) -> Sequence[ModelRecord]:
        """Return all models, by name; the same object as long as none has changed."""
        with self._lock:
            if self._models is None or self._closed:
                rows = self._rows(f"{_MODEL} ORDER BY name")
                specs = self._known(ModelSpec, ((row[-1], f"model {row[0]}") for row in rows))
                of_name = {spec.name: spec for spec in specs}
                self._models = tuple(
                    ModelRecord(of_name[name], *rest) for name, *rest, _ in rows if name in of_name
                )
                self._named = {record.spec.name: record for record in self._models}
            return self._models

    def model(self, name: str) -> ModelRecord:
        """Return one model. Raises NotFoundError."""
        with self._lock:  # called for each profile of each plan: a query takes half a millisecond
            self.models()
            if name in self._named:
                return self._named[name]
            row = the_row(self._rows(f"{_MODEL} WHERE name = ?", name), "model", name)
            return ModelRecord(self._parse(ModelSpec, row[-1], f"model {name}"), *row[1:-1])

    def update_model(self, record: ModelRecord, *, expected_version: int) -> None:
        """Replace a model. Raises NotFoundError, and ConflictError if the version is another."""
        name = record.spec.name
        with self._write(durable=True) as connection:
            self._models = None
            (version,) = _one(connection, "model", "version", "name", name)
            if version != expected_version:
                raise ConflictError(
                    f"model {name} was changed meanwhile: it has version {version}, "
                    f"not {expected_version}.",
                    hint="Read it again and repeat the change.",
                    facts={"model": name, "version": version},
                )
            connection.execute(
                "INSERT OR REPLACE INTO model VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _model_row(record)
            )

    def remove_model(self, name: str) -> None:
        """Remove a model; its profiles stay (measuring them was costly). Raises NotFoundError."""
        with self._write(durable=True) as connection:
            self._models = None
            _one(connection, "model", "name", "name", name)
            connection.execute("DELETE FROM model WHERE name = ?", (name,))

    # --- profiles ----------------------------------------------------------------------------

    def add_profile(self, profile: Profile) -> None:
        """Add or replace a profile by id."""
        with self._write() as connection:
            self._profiles = None
            connection.execute(
                "INSERT OR REPLACE INTO profile VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _profile_row(profile),
            )

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Newest measurement first; the same object as long as none of these has changed."""
        with self._lock:
            if self._profiles is None or self._closed:
                rows = self._rows(
                    "SELECT body, 'profile ' || id FROM profile ORDER BY started_at DESC, id DESC"
                )
                self._profiles = tuple(self._known(Profile, rows))
                of_model = grouped(self._profiles, lambda profile: profile.model)
                self._measured = {
                    name: _same_or_new(self._measured.get(name, ()), own)
                    for name, own in of_model.items()
                }
            return self._profiles if model is None else self._measured.get(model, ())

    def profile(self, profile_id: str) -> Profile:
        """Return the same object as in `profiles`. Raises NotFoundError."""
        known = next((one for one in self.profiles() if one.id == profile_id), None)
        if known is not None:
            return known
        rows = self._rows("SELECT body FROM profile WHERE id = ?", profile_id)
        (text,) = the_row(rows, "profile", profile_id)
        return self._parse(Profile, text, f"profile {profile_id}")

    def remove_profiles(self, profile_ids: Collection[str]) -> None:
        """Delete those of these profiles that exist."""
        with self._write() as connection:
            self._profiles = None
            connection.executemany("DELETE FROM profile WHERE id = ?", [(p,) for p in profile_ids])

    # --- jobs --------------------------------------------------------------------------------

    def put_job(self, job: Job) -> None:
        """Add or replace by id; a replaced job keeps its place in the order.

        Adding a job drops the jobs that ended longest ago, beyond `MAX_JOBS` of them.
        """
        row = (job.kind, job.subject, job.state.value, job.updated_at, serde.to_stored_json(job))
        with self._write() as connection:
            is_known = connection.execute(
                "UPDATE job SET kind = ?, subject = ?, state = ?, updated_at = ?, body = ? "
                "WHERE id = ?",
                (*row, job.id),
            ).rowcount
            if not is_known:
                connection.execute(
                    "INSERT INTO job (kind, subject, state, updated_at, body, id) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (*row, job.id),
                )
                _drop_ended(connection, MAX_JOBS)

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        rows = self._rows("SELECT body FROM job WHERE id = ?", job_id)
        return with_facts(self._parse(Job, the_row(rows, "job", job_id)[0], f"job {job_id}"))

    def jobs(self, limit: int | None = 100) -> Sequence[Job]:
        """Return jobs, newest first; all if `limit` is None."""
        rows = self._rows(
            "SELECT body, 'job ' || id FROM job ORDER BY sequence DESC LIMIT ?",
            -1 if limit is None else limit,
        )
        return [with_facts(job) for job in self._readable(Job, rows)]

    # --- plan --------------------------------------------------------------------------------

    def set_plan(self, plan: Plan) -> None:
        """Make this the applied (desired) plan."""
        row = (plan.id, plan.created_at, serde.to_stored_json(plan))
        with self._write(durable=True) as connection:
            last = connection.execute(
                'INSERT INTO "plan" (id, created_at, body) VALUES (?, ?, ?)', row
            ).lastrowid
            too_old = (last or 0) - MAX_PLANS
            connection.execute('DELETE FROM "plan" WHERE sequence <= ?', (too_old,))

    def plan(self) -> Plan | None:
        """Return the applied plan; None if there is none, or if the last one cannot be read."""
        return next(iter(self.applied_plans(1)), None)

    # --- keys --------------------------------------------------------------------------------

    def add_key(self, key: KeyRecord) -> None:
        """Add a key. Raises ConflictError if the id (or the key itself) is taken."""
        row = (key.id, key.sha256, serde.to_stored_json(key))
        try:
            with self._write(durable=True) as connection:
                self._keys = None
                connection.execute("INSERT INTO api_key (id, sha256, body) VALUES (?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise ConflictError(
                f"a key with id {key.id} exists already.",
                hint="Make another key.",
                facts={"key": key.id},
            ) from error

    def keys(self) -> Sequence[KeyRecord]:
        """Return all keys, oldest first; the same object as long as none has changed."""
        with self._lock:
            if self._keys is None or self._closed:
                rows = self._rows("SELECT body, 'key ' || id FROM api_key ORDER BY sequence")
                self._keys = tuple(self._known(KeyRecord, rows))
            return self._keys

    def key(self, key_id: str) -> KeyRecord:
        """Return one key. Raises NotFoundError."""
        rows = self._rows("SELECT body FROM api_key WHERE id = ?", key_id)
        return self._parse(KeyRecord, the_row(rows, "key", key_id)[0], f"key {key_id}")

    def update_key(self, key: KeyRecord) -> None:
        """Replace a key by id. Raises NotFoundError."""
        with self._write(durable=True) as connection:
            self._keys = None
            _one(connection, "api_key", "id", "id", key.id)
            row = (key.sha256, serde.to_stored_json(key), key.id)
            connection.execute("UPDATE api_key SET sha256 = ?, body = ? WHERE id = ?", row)

    def remove_key(self, key_id: str) -> None:
        """Remove a key. Raises NotFoundError."""
        with self._write(durable=True) as connection:
            self._keys = None
            _one(connection, "api_key", "id", "id", key_id)
            connection.execute("DELETE FROM api_key WHERE id = ?", (key_id,))

    # --- marks -------------------------------------------------------------------------------

    def marks(self, kind: str) -> Mapping[str, str]:
        """Return the value by subject of all marks of a kind, by subject."""
        with self._lock:
            if kind not in self._marks or self._closed:
                query = "SELECT subject, value FROM mark WHERE kind = ? ORDER BY subject"
                self._marks[kind] = MappingProxyType(dict(self._rows(query, kind)))
            return self._marks[kind]

    def set_mark(self, kind: str, subject: str, value: str | None, at: str = "") -> None:
        """Add or replace a mark; None removes it, and is no error if there is none."""
        with self._write(durable=True) as connection:
            self._marks.pop(kind, None)
            if value is None:
                query = "DELETE FROM mark WHERE kind = ? AND subject = ?"
                connection.execute(query, (kind, subject))
            else:
                row = (kind, subject, value, at)
                connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", row)

    # --- counters, end -----------------------------------------------------------------------

    def next_counter(self, name: str) -> int:
        """Return a number that grows by one with each call and survives restarts; 1 at first."""
        with self._write() as connection:
            (number,) = connection.execute(
                "INSERT INTO counter VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1 "
                "RETURNING value",
                (name,),
            ).fetchone()
            return int(number)


def _one(connection: sqlite3.Connection, table: str, column: str, of: str, key: str) -> Row:
    """Return a column of the row with a key. Raises NotFoundError."""
    rows = connection.execute(f"SELECT {column} FROM {table} WHERE {of} = ?", (key,)).fetchall()
    return the_row(rows, table.removeprefix("api_"), key)


def _drop_ended(connection: sqlite3.Connection, keep: int) -> None:
    """Drop all ended jobs except the `keep` that ended last."""
    states = [state.value for state in ENDED]
    connection.execute(
        "DELETE FROM job WHERE sequence IN (SELECT sequence FROM job "
        f"WHERE state IN ({', '.join('?' for _ in states)}) "
        "ORDER BY updated_at DESC, sequence DESC LIMIT -1 OFFSET ?)",
        (*states, keep),
    )


def _model_row(record: ModelRecord) -> Row:
    spec = record.spec
    return (
        *(spec.name, record.version, spec.source.kind.value, spec.source.ref, spec.engine_kind),
        *(record.created_at, record.updated_at, serde.to_stored_json(spec)),
    )


def _profile_row(profile: Profile) -> Row:
    return (
        *(profile.id, profile.model, profile.kind.value, profile.hardware, profile.size.key),
        *(profile.workload.key, profile.dtype, profile.provenance.started_at),
        serde.to_stored_json(profile),
    )


def _same_or_new(before: tuple[Profile, ...], now: Sequence[Profile]) -> tuple[Profile, ...]:
    """Return the former profiles of a model if they are all that it has now."""
    same = len(before) == len(now) and all(map(operator.is_, before, now))
    return before if same else tuple(now)
