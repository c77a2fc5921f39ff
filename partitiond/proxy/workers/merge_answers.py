"""Merges the answers of several workers into one for the daemon: GET /state and GET /metrics."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from partitiond.proxy.telemetry import families
from partitiond.proxy.telemetry.metrics import Samples
from partitiond.proxy.telemetry.traffic import added

_LARGEST: Final = frozenset({families.LIMIT.name, families.EJECTED.name})
"""Gauges of one quantity that every worker reports; most other gauges are shares of a sum."""
_COUNTERS: Final = frozenset(one.name for one in families.FAMILIES if one.kind != "gauge")


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge states: counts are added; a model is as idle as in the worker that used it last."""
    idle: dict[str, float] = {}
    for state in states:
        for name, seconds in state["idle_seconds"].items():
            idle[name] = min(seconds, idle.get(name, seconds))
    counts = [
        {name: state[name] for name in ("in_flight", "queues", "keys") if name in state}
        for state in states
    ]
    return {**functools.reduce(added, counts), "idle_seconds": idle}


def merge_samples(parts: Iterable[Samples]) -> Samples:
    """Return the sum over workers, present and past."""
    total: Samples = {}
    for part in parts:
        for family, samples in part.items():
            mine = total.setdefault(family, {})
            for name, value in samples.items():
                mine[name] = _combined(family, mine[name], value) if name in mine else value
    return total


def counters_of(samples: Samples) -> Samples:
    """Return only the counters and histograms, which are kept when their worker is gone."""
    return {family: counted for family, counted in samples.items() if family in _COUNTERS}


def _combined(family: str, mine: float, other: float) -> float:
    if family in _LARGEST:
        return max(mine, other)
    return min(mine, other) if family == families.PEERS.name else mine + other
