"""Keeps models, profiles, jobs, plans, events, keys and more. Every call is one transaction.

What an operator asked for (models, keys, the applied plan, marks) is on disk when a call returns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from sqlalchemy import Engine, delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from partitiond import serde
from partitiond.core.errors import ConflictError, StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import ENDED, Job
from partitiond.core.profile.record import Profile
from partitiond.store.event_repository import EventRepository
from partitiond.store.ledger_repository import LedgerRepository
from partitiond.store.release_repository import ReleaseRepository
from partitiond.store.sessions import PATIENCE_SECONDS, Sessions, need_row
from partitiond.store.tables import (
    CounterRow,
    JobRow,
    KeyRow,
    MarkRow,
    ModelRow,
    PlanRow,
    ProfileRow,
)
from partitiond.store.usage_repository import UsageRepository

MAX_JOBS: Final = 1_000
"""Ended jobs kept, those that ended last; jobs that wait or run are all kept."""
MAX_PLANS: Final = 50
"""Applied plans kept, for looking back."""


class Store(EventRepository, LedgerRepository, UsageRepository, ReleaseRepository, Sessions):
    """One SQLite file, and one writer. Made by `open_store`; safe to call from any thread.

    Lists leave out rows that cannot be read; `unread` names them.
    """

    def __init__(
        self, engine: Engine, path: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        super().__init__(engine, path, patience_seconds)
        # Read at every pass of the loop, and there may be thousands. Only set under the lock.
        self._keys: tuple[KeyRecord, ...] | None = None
        self._models: tuple[ModelRecord, ...] | None = None
        self._named: dict[str, ModelRecord] = {}  # the same by name, while there are any
        self._specs: dict[str, tuple[str, ModelSpec]] = {}  # by name, with the text they are from
        self._profiles: dict[str | None, tuple[Profile, ...]] = {}  # by model; None for all
        self._marks: dict[str, Mapping[str, str]] = {}

    # --- models ------------------------------------------------------------------------------

    def add_model(self, record: ModelRecord) -> None:
        """Add a model. Raises ConflictError if the name is taken."""
        try:
            with self._write(durable=True) as session:
                self._models = None
                session.add(_model_row(record))
        except IntegrityError as error:
            name = record.spec.name
            raise ConflictError(
                f"a model named {name} is registered already.",
                hint="Change it with PATCH, remove it first, or give this one another name.",
                facts={"model": name},
            ) from error

    def models(self) -> Sequence[ModelRecord]:
        """Return all models, by name; the same object as long as none has changed."""
        with self._read() as session:
            if self._models is None:
                rows = session.exec(select(ModelRow).order_by(col(ModelRow.name))).all()
                self._models = tuple(self._readable_models(rows))
                self._named = {record.spec.name: record for record in self._models}
            return self._models

    def model(self, name: str) -> ModelRecord:
        """Return one model. Raises NotFoundError."""
        with self._lock:  # called for each profile of each plan: a query takes half a millisecond
            if self._models is not None and name in self._named and not self._closed:
                return self._named[name]
        with self._read() as session:
            return self._model(_found_model(session, name))

    def _readable_models(self, rows: Iterable[ModelRow]) -> Iterator[ModelRecord]:
        for row in rows:
            try:
                yield self._model(row)
            except StoreError as error:
                self._set_aside(f"model {row.name}", error)

    def _model(self, row: ModelRow) -> ModelRecord:
        text, spec = self._specs.get(row.name, ("", None))
        if spec is None or text != row.spec:
            spec = self._parse(ModelSpec, row.spec, f"model {row.name}")
            self._specs[row.name] = (row.spec, spec)
        return ModelRecord(spec, row.version, row.created_at, row.updated_at)

    def update_model(self, record: ModelRecord, *, expected_version: int) -> None:
        """Replace a model. Raises NotFoundError, and ConflictError if the version is another."""
        name = record.spec.name
        with self._write(durable=True) as session:
            self._models = None
            stored = _found_model(session, name)
            if stored.version != expected_version:
                raise ConflictError(
                    f"model {name} was changed meanwhile: it has version {stored.version}, "
                    f"not {expected_version}.",
                    hint="Read it again and repeat the change.",
                    facts={"model": name, "version": stored.version},
                )
            session.merge(_model_row(record))

    def remove_model(self, name: str) -> None:
        """Remove a model; its profiles stay (measuring them was costly). Raises NotFoundError."""
        with self._write(durable=True) as session:
            self._models = None
            session.delete(_found_model(session, name))
            self._specs.pop(name, None)

    # --- profiles ----------------------------------------------------------------------------

    def add_profile(self, profile: Profile) -> None:
        """Add or replace a profile by id."""
        row = _profile_row(profile)
        with self._lock:
            known, self._profiles = self._profiles, {}  # none is valid if the write fails halfway
            with self._write() as session:
                session.merge(row)
            # Not read again: parsing some thousands takes more than a second.
            if None in known:
                known.setdefault(profile.model, ())
            self._profiles = {
                model: _with_profile(profile, kept, here=model in (None, profile.model))
                for model, kept in known.items()
            }

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Newest measurement first; the same object as long as no profile was added.

        Once all profiles were read, those of a model are not read from the file again.
        """
        with self._lock:
            known = self._profiles
            if not self._closed and (model in known or None in known):
                return known.get(model, ())
        query = select(ProfileRow).order_by(
            col(ProfileRow.started_at).desc(), col(ProfileRow.id).desc()
        )
        if model is not None:
            query = query.where(ProfileRow.model == model)
        with self._read() as session:
            rows = session.exec(query).all()
            if not rows:  # names without profiles are not kept
                return ()
            bodies = ((row.body, f"profile {row.id}") for row in rows)
            found = tuple(self._readable(Profile, bodies))
            self._profiles = (
                {**self._profiles, model: found} if model is not None else _by_model(found)
            )
            return found

    def profile(self, profile_id: str) -> Profile:
        """Return the same object as in `profiles`, once all were read. Raises NotFoundError."""
        with self._lock:
            kept = () if self._closed else self._profiles.get(None, ())
        known = next((one for one in kept if one.id == profile_id), None)
        if known is not None:
            return known
        with self._read() as session:
            row = need_row(session.get(ProfileRow, profile_id), "profile", profile_id)
            return self._parse(Profile, row.body, f"profile {profile_id}")

    # --- jobs --------------------------------------------------------------------------------

    def put_job(self, job: Job) -> None:
        """Add or replace by id; a replaced job keeps its place in the order.

        Adding a job drops the jobs that ended longest ago, beyond `MAX_JOBS` of them.
        """
        with self._write() as session:
            row = session.exec(select(JobRow).where(JobRow.id == job.id)).first()
            kept = row.sequence if row is not None else None
            session.merge(_job_row(job, kept))
            if kept is None:
                session.flush()
                _drop_ended(session, MAX_JOBS)

    def job(self, job_id: str) -> Job:
        """Return one job. Raises NotFoundError."""
        with self._read() as session:
            row = session.exec(select(JobRow).where(JobRow.id == job_id)).first()
            return self._parse(Job, need_row(row, "job", job_id).body, f"job {job_id}")

    def jobs(self, limit: int | None = 100) -> Sequence[Job]:
        """Return jobs, newest first; all if `limit` is None."""
        query = select(JobRow).order_by(col(JobRow.sequence).desc()).limit(limit)
        with self._read() as session:
            rows = session.exec(query).all()
            bodies = ((row.body, f"job {row.id}") for row in rows)
            return list(self._readable(Job, bodies))

    # --- plan --------------------------------------------------------------------------------

    def set_plan(self, plan: Plan) -> None:
        """Make this the applied (desired) plan."""
        with self._write(durable=True) as session:
            row = PlanRow(id=plan.id, created_at=plan.created_at, body=serde.to_stored_json(plan))
            session.add(row)
            session.flush()
            too_old = col(PlanRow.sequence) <= (row.sequence or 0) - MAX_PLANS
            session.exec(delete(PlanRow).where(too_old))

    def plan(self) -> Plan | None:
        """Return the applied plan; None if there is none, or if the last one cannot be read."""
        query = select(PlanRow).order_by(col(PlanRow.sequence).desc()).limit(1)
        with self._read() as session:
            return next(iter(self._readable_plans(session.exec(query).all())), None)

    def plan_id(self) -> str:
        """Return the id of the applied plan, also of one that cannot be read; empty without one."""
        query = select(PlanRow.id).order_by(col(PlanRow.sequence).desc()).limit(1)
        with self._read() as session:
            return session.exec(query).first() or ""

    # --- keys --------------------------------------------------------------------------------

    def add_key(self, key: KeyRecord) -> None:
        """Add a key. Raises ConflictError if the id (or the key itself) is taken."""
        row = KeyRow(id=key.id, sha256=key.sha256, body=serde.to_stored_json(key))
        try:
            with self._lock:
                known, self._keys = self._keys, None  # none is valid if the write fails halfway
                with self._write(durable=True) as session:
                    session.add(row)
                # Not read again: parsing a thousand takes a tenth of a second.
                self._keys = None if known is None else (*known, key)
        except IntegrityError as error:
            raise ConflictError(
                f"a key with id {key.id} exists already.",
                hint="Make another key.",
                facts={"key": key.id},
            ) from error

    def keys(self) -> Sequence[KeyRecord]:
        """Return all keys, oldest first; the same object as long as none has changed."""
        with self._read() as session:
            if self._keys is None:
                rows = session.exec(select(KeyRow).order_by(col(KeyRow.sequence))).all()
                bodies = ((row.body, f"key {row.id}") for row in rows)
                self._keys = tuple(self._readable(KeyRecord, bodies))
            return self._keys

    def key(self, key_id: str) -> KeyRecord:
        """Return one key. Raises NotFoundError."""
        with self._read() as session:
            row = _key_row(session, key_id)
            return self._parse(KeyRecord, row.body, f"key {key_id}")

    def update_key(self, key: KeyRecord) -> None:
        """Replace a key by id. Raises NotFoundError."""
        with self._lock:
            known, self._keys = self._keys, None
            with self._write(durable=True) as session:
                row = _key_row(session, key.id)
                row.sha256, row.body = key.sha256, serde.to_stored_json(key)
                session.add(row)
            if known is not None:
                self._keys = tuple(key if one.id == key.id else one for one in known)

    def remove_key(self, key_id: str) -> None:
        """Remove a key. Raises NotFoundError."""
        with self._lock:
            known, self._keys = self._keys, None
            with self._write(durable=True) as session:
                session.delete(_key_row(session, key_id))
            if known is not None:
                self._keys = tuple(one for one in known if one.id != key_id)

    # --- marks -------------------------------------------------------------------------------

    def marks(self, kind: str) -> Mapping[str, str]:
        """Return the value by subject of all marks of a kind, by subject."""
        with self._lock:  # asked for each model: a session takes tenths of a millisecond
            if kind in self._marks and not self._closed:
                return self._marks[kind]
        query = select(MarkRow).where(MarkRow.kind == kind).order_by(col(MarkRow.subject))
        with self._read() as session:
            if kind not in self._marks:
                rows = session.exec(query).all()
                self._marks[kind] = MappingProxyType({row.subject: row.value for row in rows})
            return self._marks[kind]

    def set_mark(self, kind: str, subject: str, value: str | None, at: str = "") -> None:
        """Add or replace a mark; None removes it, and is no error if there is none."""
        with self._write(durable=True) as session:
            self._marks.pop(kind, None)
            if value is not None:
                session.merge(MarkRow(kind=kind, subject=subject, value=value, at=at))
            elif (row := session.get(MarkRow, (kind, subject))) is not None:
                session.delete(row)

    # --- counters, end -----------------------------------------------------------------------

    def next_counter(self, name: str) -> int:
        """Return a number that grows by one with each call and survives restarts; 1 at first."""
        with self._write() as session:
            row = session.get(CounterRow, name) or CounterRow(name=name, value=0)
            row.value += 1
            session.add(row)
            return row.value


def _found_model(session: Session, name: str) -> ModelRow:
    """Return the model's row. Raises NotFoundError, which names one that may be meant."""
    row = session.get(ModelRow, name)
    return need_row(row, "model", name, lambda: session.exec(select(ModelRow.name)))


def _key_row(session: Session, key_id: str) -> KeyRow:
    return need_row(session.exec(select(KeyRow).where(KeyRow.id == key_id)).first(), "key", key_id)


def _drop_ended(session: Session, keep: int) -> None:
    """Drop all ended jobs except the `keep` that ended last."""
    ended = col(JobRow.state).in_([state.value for state in ENDED])
    last = (col(JobRow.updated_at).desc(), col(JobRow.sequence).desc())
    too_old = select(JobRow.sequence).where(ended).order_by(*last).offset(keep)
    session.exec(delete(JobRow).where(col(JobRow.sequence).in_(too_old)))


def _model_row(record: ModelRecord) -> ModelRow:
    spec = record.spec
    return ModelRow(
        name=spec.name,
        version=record.version,
        source_kind=spec.source.kind.value,
        source_ref=spec.source.ref,
        engine_kind=spec.engine_kind,
        created_at=record.created_at,
        updated_at=record.updated_at,
        spec=serde.to_stored_json(spec),
    )


def _profile_row(profile: Profile) -> ProfileRow:
    return ProfileRow(
        id=profile.id,
        model=profile.model,
        kind=profile.kind.value,
        hardware=profile.hardware,
        size=profile.size.key,
        workload=profile.workload.key,
        dtype=profile.dtype,
        started_at=profile.provenance.started_at,
        body=serde.to_stored_json(profile),
    )


def _by_model(profiles: tuple[Profile, ...]) -> dict[str | None, tuple[Profile, ...]]:
    """Return all of them under None, and those of each model under its name, in their order."""
    own = by_key((profile.model, profile) for profile in profiles)
    return {None: profiles, **{model: tuple(kept) for model, kept in own.items()}}


def _with_profile(
    profile: Profile, kept: tuple[Profile, ...], *, here: bool
) -> tuple[Profile, ...]:
    """Return the kept profiles after one was added, newest measurement first.

    Args:
        here: the profile is one of them; else a kept profile with its id is only removed.
    """
    others = [other for other in kept if other.id != profile.id]
    if not here:
        return kept if len(others) == len(kept) else tuple(others)
    found = [*others, profile]
    return tuple(sorted(found, key=lambda p: (p.provenance.started_at, p.id), reverse=True))


def _job_row(job: Job, sequence: int | None) -> JobRow:
    return JobRow(
        sequence=sequence,
        id=job.id,
        kind=job.kind,
        subject=job.subject,
        state=job.state.value,
        updated_at=job.updated_at,
        body=serde.to_stored_json(job),
    )
