"""Defines the tables. New stores are made from them, older ones migrated; a test compares both."""

from sqlmodel import Field, SQLModel


class ModelRow(SQLModel, table=True):
    """A registered model; `spec` is a `ModelSpec` as JSON."""

    __tablename__ = "model"

    name: str = Field(primary_key=True)
    version: int
    source_kind: str
    source_ref: str
    engine_kind: str
    created_at: str
    updated_at: str
    spec: str


class ProfileRow(SQLModel, table=True):
    """A profile; `body` is a `Profile` as JSON."""

    __tablename__ = "profile"

    id: str = Field(primary_key=True)
    model: str = Field(index=True)
    kind: str
    hardware: str
    size: str
    workload: str
    dtype: str
    started_at: str
    body: str


class JobRow(SQLModel, table=True):
    """A job; `sequence` is the order of creation, `body` a `Job` as JSON."""

    __tablename__ = "job"

    sequence: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    kind: str
    subject: str
    state: str
    updated_at: str
    body: str


class PlanRow(SQLModel, table=True):
    """A plan that was applied; the greatest `sequence` is the desired one."""

    __tablename__ = "plan"

    sequence: int | None = Field(default=None, primary_key=True)
    id: str
    created_at: str
    body: str


class EventRow(SQLModel, table=True):
    """An event. Ids are never used twice, even after old events were dropped."""

    __tablename__ = "event"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True)
    at: str
    kind: str
    subject: str
    message: str
    actor: str = Field(default="", sa_column_kwargs={"server_default": ""})


class UsageRow(SQLModel, table=True):
    """Usage of one model by one key within one hour; `key_id` is empty without a key."""

    __tablename__ = "usage"

    hour: str = Field(primary_key=True)
    """ISO 8601 UTC, to the hour, as "2026-01-31T17"."""
    key_id: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    engine_seconds: float = 0.0
    device_seconds: float = 0.0
    joules: float = 0.0
    """These three only the release before reads."""


class LedgerRow(SQLModel, table=True):
    """One comparison of predicted and measured; `body` is a `LedgerEntry` as JSON."""

    __tablename__ = "ledger"

    sequence: int | None = Field(default=None, primary_key=True)
    at: str
    model: str = Field(index=True)
    replica_id: str
    body: str


class ReleaseRow(SQLModel, table=True):
    """A specification that a model had or has; `spec` is a `ModelSpec` as JSON."""

    __tablename__ = "release"

    model: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    at: str
    state: str
    spec: str


class KeyRow(SQLModel, table=True):
    """An API key; `sequence` is the order of creation, `body` a `KeyRecord` as JSON."""

    __tablename__ = "api_key"

    sequence: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    sha256: str = Field(unique=True)
    body: str


class MarkRow(SQLModel, table=True):
    """A setting of an operator on a subject: a cordon with its reason, a model put to sleep."""

    __tablename__ = "mark"

    kind: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    value: str
    at: str


class CounterRow(SQLModel, table=True):
    """A named number that only grows."""

    __tablename__ = "counter"

    name: str = Field(primary_key=True)
    value: int
