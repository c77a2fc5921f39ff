"""Finds what keys used of models between two readings of the proxy's counts. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.instants import unix_seconds, utc_iso

HOUR_LENGTH: Final = len("2030-01-31T17")
"""Characters of an hour as usage is kept by; fewer of them name its day or month."""
CONFIRMING_HOURS: Final = 24
"""Later hours with usage after which an hour has its age. Chosen: a wall clock that is ahead for
less than a day does not make usage old."""


def first_kept(now: str, booked: Sequence[str], keep_days: int) -> str:
    """Return the first hour of usage to keep; empty to keep all.

    Args:
        now: the hour by the wall clock.
        booked: the last `CONFIRMING_HOURS` hours with usage, newest first; less if there are less.
    """
    if len(booked) < CONFIRMING_HOURS:
        return ""
    confirmed = unix_seconds(f"{min(now, booked[-1])}:00")
    return utc_iso(confirmed - keep_days * 86400)[:HOUR_LENGTH]


@dataclasses.dataclass(frozen=True, slots=True)
class UsagePosition:
    """The counts of the proxy that are booked already. Stored with the books, in one transaction.

    Attributes:
        epoch: of the proxy that counted.
        uses: by key, then model.
    """

    epoch: str = ""
    uses: Mapping[str, Mapping[str, UsageCount]] = dataclasses.field(default_factory=dict)


NOTHING_BOOKED: Final = UsagePosition()


def take_position(
    positions: Mapping[str, UsagePosition], host: str, epoch: str
) -> tuple[UsagePosition, dict[str, UsagePosition]]:
    """Return the position from which a host's proxy is booked, and the positions without it.

    A proxy is known by its epoch, whatever its host is called by now. So nothing is booked twice if
    the host was the only one before, has another name, or has its control plane on another host.

    Args:
        positions: by host; "" is of the time when there was one host.
        host: whose proxy it is.
        epoch: of the proxy.
    """
    rest = dict(positions)
    name = next((name for name in rest if rest[name].epoch == epoch), host)
    return rest.pop(name, NOTHING_BOOKED), rest


def usage_since(
    position: UsagePosition, sample: TrafficSample
) -> dict[tuple[str, str], UsageCount]:
    """Return what was used since the position, by (key, model).

    Counts of another epoch begin at zero; a count that fell within an epoch adds nothing.
    """
    known = position.uses if position.epoch == sample.epoch else {}
    none = UsageCount()
    found = {
        (key_id, model): use.since(known.get(key_id, {}).get(model, none))
        for key_id, uses in sample.usage.items()
        for model, use in uses.items()
    }
    return {of: more for of, more in found.items() if more != none}
