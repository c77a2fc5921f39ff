"""Adds up the counts of the proxies of several hosts, for rates and means. Pure.

Each proxy counts from its own start, on its own clock, and may be silent for a while. The plain sum
of the counts would jump whenever a proxy comes, goes or starts again. So only the growth between
two readings of the same proxy is added up. Counts that grew while a host was silent are left out:
they would look like a burst at the moment of its return. The books of usage take them all the same,
from the readings of each proxy (`core.keys.usage`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample

CountT = TypeVar("CountT", ModelCount, ReplicaCount)

_NOW: Final = frozenset({"waiting", "in_flight"})
"""Fields that say what is now; they do not grow."""


@dataclasses.dataclass(frozen=True, slots=True)
class FleetSample(TrafficSample):
    """The sum over all proxies, and the readings of those that answered.

    Attributes:
        hosts: readings by host.
    """

    hosts: Mapping[str, TrafficSample] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class HostCounts:
    """What the proxy of one host has added to the sum.

    Attributes:
        last: its last reading; None before the first, and while the host is silent.
        models: growth by model.
        replicas: growth by engine.
    """

    last: TrafficSample | None = None
    models: Mapping[str, ModelCount] = dataclasses.field(default_factory=dict)
    replicas: Mapping[str, ReplicaCount] = dataclasses.field(default_factory=dict)


def add_reading(before: HostCounts, sample: TrafficSample | None) -> HostCounts:
    """Return the counts of a host after another reading.

    Args:
        before: the counts before it.
        sample: the reading; None if the host is silent.
    """
    if sample is None:
        quiet = {name: _but_now(count) for name, count in before.models.items()}
        still = {name: _but_now(count) for name, count in before.replicas.items()}
        return HostCounts(None, quiet, still)
    last = before.last
    same = last is not None and last.epoch == sample.epoch
    models = {name: _but_now(count) for name, count in before.models.items()}
    for name, count in sample.models.items():
        old = last.models.get(name) if last is not None and same else None
        known = models.get(name, ModelCount())
        # After a silence nobody knows when the counts grew.
        models[name] = _add_growth(known, count, count if last is None else old or ModelCount())
    replicas: dict[str, ReplicaCount] = {}
    for name, one in sample.replicas.items():
        fresh = ReplicaCount(one.model, one.generation)
        was = last.replicas.get(name) if last is not None and same else None
        if was is None or was.generation != one.generation:
            was = one if last is None else fresh
        mine = before.replicas.get(name, fresh)
        mine = mine if mine.generation == one.generation else fresh
        replicas[name] = _add_growth(mine, one, was)
    return HostCounts(sample, models, replicas)


def sum_hosts(counts: Mapping[str, HostCounts], epoch: str, now: float) -> FleetSample:
    """Return the sum over the hosts.

    Args:
        counts: by host.
        epoch: of the sum: it changes when the sum begins anew.
        now: the control plane's monotonic clock, in seconds.
    """
    models: dict[str, ModelCount] = {}
    replicas: dict[str, ReplicaCount] = {}
    # An engine may have moved with its name from a host that is silent by now.
    for host in sorted(counts.values(), key=lambda host: host.last is not None):
        for name, count in host.models.items():
            known = models.get(name)
            models[name] = count if known is None else _sum(known, count)
        replicas |= host.replicas
    read = {name: host.last for name, host in counts.items() if host.last is not None}
    return FleetSample(now, epoch, models, replicas, hosts=read)


def _add_growth(known: CountT, new: CountT, old: CountT) -> CountT:
    """Return `known` and the growth from `old` to `new`; a count that fell adds nothing."""

    def value(name: str) -> Any:
        mine, late, early = (getattr(count, name) for count in (known, new, old))
        if isinstance(late, str) or name in _NOW:
            return late
        if isinstance(late, tuple):
            size = len(late)
            return tuple(
                (mine[i] if i < len(mine) else 0)
                + max(0, late[i] - (early[i] if i < len(early) else 0))
                for i in range(size)
            )
        return mine + max(0, late - early)

    return _made(new, value)


def _sum(one: CountT, other: CountT) -> CountT:
    def value(name: str) -> Any:
        mine, more = getattr(one, name), getattr(other, name)
        if isinstance(mine, str):
            return mine
        if isinstance(mine, tuple):
            longer, shorter = (mine, more) if len(mine) >= len(more) else (more, mine)
            return tuple(n + (shorter[i] if i < len(shorter) else 0) for i, n in enumerate(longer))
        return mine + more

    return _made(one, value)


def _but_now(count: CountT) -> CountT:
    return _made(count, lambda name: 0 if name in _NOW else getattr(count, name))


def _made(like: CountT, value: Callable[[str], Any]) -> CountT:
    values = {field.name: value(field.name) for field in dataclasses.fields(like)}
    return dataclasses.replace(like, **values)
