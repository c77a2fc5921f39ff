"""Defines reports of usage by key, model and time."""

import dataclasses
import enum


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
    """

    period: str
    key_id: str
    label: str
    model: str
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int


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
