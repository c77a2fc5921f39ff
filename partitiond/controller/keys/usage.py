"""Records usage in the store, and makes reports of it."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.demand.fleet import FleetSample
from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.errors import InputError, PartitiondError
from partitiond.core.instants import is_day, unix_seconds, utc_iso
from partitiond.core.keys.usage import (
    CONFIRMING_HOURS,
    HOUR_LENGTH,
    UsagePosition,
    first_kept,
    take_position,
    usage_since,
)
from partitiond.core.views.usage import UsageBy, UsageReport
from partitiond.ports import Clock
from partitiond.store import Store

log = logging.getLogger(__name__)

BOOK_SECONDS: Final = 10.0
"""Pause between two writes of the usage. If the daemon is killed nothing is lost, for the proxy
counts on. If the proxy is killed, what the proxy counted since the last write is lost."""
_PERIODS: Final = {
    UsageBy.HOUR: HOUR_LENGTH,
    UsageBy.DAY: len("2030-01-31"),
    UsageBy.MONTH: len("2030-01"),
}


class UsageUseCases:
    """Adds up what was used, and writes it to the store hour by hour.

    Args:
        store: keeps the usage.
        clock: says which hour it is.
        latest: returns the last sample of the proxy's counts.
        left: returns what the last ended proxy of a host had counted; "" is the only host.
        keep_days: older hours are forgotten (see `first_kept`); 0 keeps all.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        latest: Callable[[], TrafficSample | None],
        left: Callable[[str], TrafficSample | None] = lambda _host: None,
        keep_days: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._latest = latest
        self._left = left
        self._keep_days = keep_days
        self._positions: dict[str, UsagePosition] | None = None
        self._pending: dict[tuple[str, str], UsageCount] = {}
        self._hour = ""
        self._booked_at = float("-inf")
        self._dropped_in = ""

    async def run(self) -> None:
        """Look at the counts until cancelled; then book what was counted last."""
        try:
            while True:
                self.collect()
                await asyncio.sleep(BOOK_SECONDS / 5)
        finally:
            self.book()

    def collect(self) -> None:
        """Add what was used since the last look; book it if that is due."""
        sample = self._latest()
        if sample is None:
            return
        hour = self._clock.utc_iso()[:HOUR_LENGTH]
        if self._hour and hour != self._hour and not self.book():
            return  # what belongs to the hour before is booked first
        self._hour = hour
        if self._positions is None:
            try:
                self._positions = dict(self._store.usage_positions())
            except PartitiondError as error:
                log.warning("the usage cannot be booked: %s", error)
                return
        hosts = sample.hosts if isinstance(sample, FleetSample) else {"": sample}
        for host, part in hosts.items():
            self._positions = self._count(self._positions, host, part)
        if self._clock.monotonic() - self._booked_at >= BOOK_SECONDS:
            self.book()

    def _count(
        self, positions: Mapping[str, UsagePosition], host: str, sample: TrafficSample
    ) -> dict[str, UsagePosition]:
        """Add what a host's proxy counted since its position; return the positions after it."""
        position, after = take_position(positions, host, sample.epoch)
        if position.epoch != sample.epoch and positions:
            left = self._left(host)
            if left is not None:
                position, after = take_position(positions, host, left.epoch)
                if position.epoch == left.epoch:
                    position = self._add(position, left)
        after[host] = self._add(position, sample)
        return after

    def _add(self, position: UsagePosition, sample: TrafficSample) -> UsagePosition:
        for key, more in usage_since(position, sample).items():
            self._pending[key] = self._pending.get(key, UsageCount()) + more
        return UsagePosition(sample.epoch, sample.usage)

    def book(self) -> bool:
        """Write what is not written yet; return whether it was. What is not written is kept."""
        if not self._pending or self._positions is None:
            return True
        try:
            self._store.add_usage(self._hour, self._pending, self._positions)
        except PartitiondError as error:
            log.warning("the usage cannot be booked: %s", error)
            return False
        self._pending.clear()
        self._booked_at = self._clock.monotonic()
        self._drop_old()
        return True

    def _drop_old(self) -> None:
        if not self._keep_days or self._dropped_in == self._hour:
            return
        try:
            booked = self._store.last_used(CONFIRMING_HOURS)
            self._store.drop_usage(first_kept(self._hour, booked, self._keep_days))
            self._dropped_in = self._hour
        except PartitiondError as error:
            log.warning("old usage cannot be dropped: %s", error)

    async def report(
        self,
        since: str | None = None,
        until: str | None = None,
        by: Sequence[UsageBy] = (UsageBy.KEY, UsageBy.MODEL),
    ) -> UsageReport:
        """Usage of the hours from `since` to `until`. Raises InputError."""
        now = self._clock.utc_iso()
        first = _hour("since", since) if since else f"{now[:7]}-01T00"
        last = _last_hour(until) if until else now[:HOUR_LENGTH]
        if first > last:
            raise InputError(
                f"the time from {first} to {last} ends before it begins.",
                hint="Give an earlier `since` or a later `until`; both are UTC.",
            )
        by = tuple(dict.fromkeys(by))
        if sum(one in _PERIODS for one in by) > 1:
            raise InputError(
                "a report is by one of hour, day and month.", hint="Leave the others away."
            )
        self.book()
        records = self._store.keys()
        labels = {key.id: key.label for key in records}
        period = next((_PERIODS[one] for one in by if one in _PERIODS), 0)
        by_key, by_model = UsageBy.KEY in by, UsageBy.MODEL in by
        sums = await asyncio.to_thread(
            self._store.usage, first, last, period, by_key=by_key, by_model=by_model
        )
        lines = (dataclasses.replace(line, label=labels.get(line.key_id, "")) for line in sums)
        return UsageReport(first, last, by, tuple(lines))


def _last_hour(text: str) -> str:
    """Parse `until`, which is inclusive: a whole hour, or a whole day if it names no hour."""
    return f"{text.strip()}T23" if is_day(text.strip()) else _hour("until", text)


def _hour(name: str, text: str) -> str:
    try:
        return utc_iso(unix_seconds(text))[:HOUR_LENGTH]
    except ValueError as error:
        raise InputError(
            f"{name} is no time: {text!r}.",
            hint="Write it as 2030-01-31 or 2030-01-31T17:00:00Z; it is meant as UTC.",
        ) from error
