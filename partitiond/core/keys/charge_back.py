"""Splits what devices did between keys, for charge-back, from two readings of the proxy. Pure.

A replica's partition is a share of its device, and the replica is busy while at least one sequence
runs. That busy share of the device is split between the keys whose sequences ran there, by the time
that they spent in the model's engines. So a key pays for what it made a device do, and no key pays
for idle time. The device seconds of all keys add up to the busy time of all replicas, each times
its share.
"""

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
class ReplicaShare:
    """A replica's share of its device.

    Attributes:
        share: of the device's compute, 0..1.
        watts: draw at its operating point beyond the idle device; 0 if that is not known.
    """

    share: float
    watts: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """Amounts that were used.

    Attributes:
        requests: that ended ok, or were left and cost something.
        failed: that failed at an engine.
        prompt_tokens, output_tokens: charged (see `core.keys.tokens_charged`).
        engine_seconds: sum of the times that sequences spent in engines.
        device_seconds: of whole devices: busy time of engines times their share of the device.
        joules: busy time of engines times their predicted draw.
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    engine_seconds: float = 0.0
    device_seconds: float = 0.0
    joules: float = 0.0

    def __add__(self, other: "Used") -> "Used":
        return Used(
            self.requests + other.requests,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.engine_seconds + other.engine_seconds,
            self.device_seconds + other.device_seconds,
            self.joules + other.joules,
        )


NOTHING_USED: Final = Used()


@dataclasses.dataclass(frozen=True, slots=True)
class UsagePosition:
    """The counts of the proxy that are booked already. Stored with the books, in one transaction.

    Attributes:
        epoch: of the proxy that counted.
        uses: by key, then model.
        busy: (generation, busy seconds) by replica.
    """

    epoch: str = ""
    uses: Mapping[str, Mapping[str, UsageCount]] = dataclasses.field(default_factory=dict)
    busy: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)


NOTHING_BOOKED: Final = UsagePosition()
_NO_USE: Final = UsageCount()


def take_position(
    positions: Mapping[str, UsagePosition], host: str, epochs: Sequence[str]
) -> tuple[UsagePosition, dict[str, UsagePosition]]:
    """Return the position from which a host's proxy is booked, and the positions without it.

    A proxy is known by its epoch, whatever its host is called by now. So nothing is booked twice if
    the host was the only one before, has another name, or has its control plane on another host.

    Args:
        positions: by host; "" is of the time when there was one host.
        host: whose proxy it is.
        epochs: of the proxy, and of the one that ended before it if that is known.
    """
    names = [n for epoch in epochs for n, position in positions.items() if position.epoch == epoch]
    names += [host] if host in positions else []
    if not names:
        return NOTHING_BOOKED, dict(positions)
    rest = {name: position for name, position in positions.items() if name != names[0]}
    return positions[names[0]], rest


def usage_since(
    position: UsagePosition, sample: TrafficSample, shares: Mapping[str, ReplicaShare]
) -> tuple[dict[tuple[str, str], Used], UsagePosition]:
    """Return what was used since the position, by (key, model), and the position after it.

    Booking the same sample twice books nothing the second time. Counts of another epoch begin at
    zero; a count that fell within an epoch is not booked.

    Args:
        position: what was booked before.
        sample: a later reading.
        shares: of replicas, by the engine's name; a replica that is missing takes nothing.
    """
    same = position.epoch == sample.epoch
    seconds: dict[str, float] = {}
    joules: dict[str, float] = {}
    for name, count in sample.replicas.items():
        generation, before = position.busy.get(name, ("", 0.0)) if same else ("", 0.0)
        busy = count.busy_seconds - (before if generation == count.generation else 0.0)
        taken = shares.get(name)
        if taken is not None and busy > 0.0:
            seconds[count.model] = seconds.get(count.model, 0.0) + busy * taken.share
            joules[count.model] = joules.get(count.model, 0.0) + busy * taken.watts
    deltas: dict[tuple[str, str], UsageCount] = {}
    for key_id, uses in sample.usage.items():
        known = position.uses.get(key_id, {}) if same else {}
        for model, use in uses.items():
            delta = _less(use, known.get(model, _NO_USE))
            if delta != _NO_USE:
                deltas[key_id, model] = delta
    totals: dict[str, float] = {}
    for (_, model), delta in deltas.items():
        totals[model] = totals.get(model, 0.0) + delta.engine_seconds
    found: dict[tuple[str, str], Used] = {}
    for (key_id, model), delta in deltas.items():
        part = delta.engine_seconds / totals[model] if totals[model] > 0.0 else 0.0
        found[key_id, model] = Used(
            delta.requests,
            delta.failed,
            delta.prompt_tokens,
            delta.output_tokens,
            delta.engine_seconds,
            part * seconds.get(model, 0.0),
            part * joules.get(model, 0.0),
        )
    busy_now = {n: (count.generation, count.busy_seconds) for n, count in sample.replicas.items()}
    return found, UsagePosition(sample.epoch, sample.usage, busy_now)


def _less(new: UsageCount, old: UsageCount) -> UsageCount:
    return UsageCount(
        max(0, new.requests - old.requests),
        max(0, new.failed - old.failed),
        max(0, new.prompt_tokens - old.prompt_tokens),
        max(0, new.output_tokens - old.output_tokens),
        max(0.0, new.engine_seconds - old.engine_seconds),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class UsageRecord:
    """Usage of one model by one key within one hour, or a sum of such.

    Attributes:
        hour: ISO 8601 UTC, to the hour: "2030-01-31T17"; of a sum, as far as the sum is by it.
        key_id: empty for requests without a key, and in a sum over keys.
        model: empty in a sum over models.
    """

    hour: str
    key_id: str
    model: str
    used: Used
