"""Defines how the usage of keys and models is stored, and how it is queried."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

from partitiond.core.keys.usage import UsagePosition, Used


@dataclasses.dataclass(frozen=True, slots=True)
class UsageRecord:
    """Usage of one model by one key within one hour.

    Attributes:
        hour: ISO 8601 UTC, to the hour: "2030-01-31T17".
        key_id: empty for requests without a key.
    """

    hour: str
    key_id: str
    model: str
    used: Used


class UsageStore(Protocol):
    """Keeps the usage of keys and models on disk."""

    def add_usage(
        self, hour: str, used: Mapping[tuple[str, str], Used], position: UsagePosition
    ) -> None:
        """Add to the hour what each (key, model) used, and move the position; all or nothing."""
        ...

    def usage_position(self) -> UsagePosition:
        """The position up to which the proxy's counts are booked; empty at first."""
        ...

    def usage(self, first_hour: str, last_hour: str) -> Sequence[UsageRecord]:
        """All records of these hours, both included, by hour, key and model."""
        ...

    def drop_usage(self, before_hour: str) -> int:
        """Delete the hours before this one; returns how many records were deleted."""
        ...


class UsageBy(enum.StrEnum):
    """What a line of a report is for."""

    KEY = "key"
    MODEL = "model"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclasses.dataclass(frozen=True, slots=True)
class UsageLine:
    """One line of a report; fields that it is not grouped by are empty.

    Attributes:
        period: "2030-01-31T17", "2030-01-31" or "2030-01", UTC.
        key_id: of the API key; empty for requests without one, too.
        label: of the key; empty where it has none, or is removed.
        kilowatt_hours: by the predicted draw of replicas while they were busy, without what the
            idle device takes.
    """

    period: str
    key_id: str
    label: str
    model: str
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    engine_seconds: float
    device_seconds: float
    kilowatt_hours: float


@dataclasses.dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used.

    Attributes:
        first_hour, last_hour: of the time asked for, both included.
        by: what its lines are for.
    """

    first_hour: str
    last_hour: str
    by: tuple[UsageBy, ...]
    lines: tuple[UsageLine, ...]


class Usages(Protocol):
    """Answers questions about usage."""

    def report(
        self,
        since: str | None = None,
        until: str | None = None,
        by: Sequence[UsageBy] = (UsageBy.KEY, UsageBy.MODEL),
    ) -> UsageReport:
        """Usage of the hours from `since` to `until`, ISO 8601 (default: this month, until now).

        Raises:
            InputError: a time cannot be read, or the times are in the wrong order.
        """
        ...
