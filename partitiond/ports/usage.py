"""Defines how the usage of keys and models is stored, and how it is queried."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from partitiond.core.keys.usage import HOUR_LENGTH, UsagePosition, UsageRecord, Used
from partitiond.core.views.usage import UsageBy, UsageReport


class UsageStore(Protocol):
    """Keeps the usage of keys and models on disk."""

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


class Usages(Protocol):
    """Answers questions about usage."""

    async def report(
        self,
        since: str | None = None,
        until: str | None = None,
        by: Sequence[UsageBy] = (UsageBy.KEY, UsageBy.MODEL),
    ) -> UsageReport:
        """Return the usage of the hours from `since` to `until`, ISO 8601 (default: this month,
        until now).

        Raises:
            InputError: a time cannot be read, or the times are in the wrong order.
        """
        ...
