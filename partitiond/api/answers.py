"""Defines the answers that are not core values: index, health, problems."""

import dataclasses
from typing import Any

from pydantic import BaseModel, Field

from partitiond.core.keys.record import KeyRecord


@dataclasses.dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time it is shown."""

    record: KeyRecord
    key: str


class Index(BaseModel):
    """Where to go from here."""

    name: str
    version: str
    resources: dict[str, str]


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Ready(BaseModel):
    """Requests can be served."""

    ready: bool = True


class Stopping(BaseModel):
    """The daemon is ending."""

    stopping: bool = True
    stop_engines: bool


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="URN of the kind of problem.")
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, in one sentence.")
    code: str = Field(description="Stable word for programs.")
    hint: str = Field(description="What to do next; may be empty.")
    facts: dict[str, Any] = Field(description="The values behind the message.")
    instance: str = Field(description="Path of the request.")
