"""Merges the answers of several workers into one for the daemon: GET /state and GET /metrics."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from partitiond.proxy.telemetry import families
from partitiond.proxy.telemetry.traffic import added

_LARGEST: Final = frozenset({families.LIMIT.name, families.EJECTED.name})
"""Gauges of one quantity that every worker reports; most other gauges are shares of a sum."""
_LEAST: Final = frozenset({families.VERSION.name, families.PEERS.name})


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


class Samples:
    """Prometheus text, parsed as far as adding up texts requires."""

    def __init__(self, text: str = "") -> None:
        self.heads: dict[str, list[str]] = {}
        """Family -> its HELP and TYPE lines."""
        self.families: dict[str, dict[str, float]] = {}
        """Family -> full name with labels -> value."""
        self.kinds: dict[str, str] = {}
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, word, family, *rest = line.split(" ", 3)
                self.heads.setdefault(family, []).append(line)
                self.families.setdefault(family, {})
                if word == "TYPE":
                    self.kinds[family] = rest[0]
            elif line:
                name, _, value = line.rpartition(" ")
                self.families.setdefault(family, {})[name] = float(value)

    def add(self, other: "Samples") -> None:
        """Add the samples of another worker."""
        for family, samples in other.families.items():
            if family not in self.families:
                self.heads[family] = other.heads.get(family, [])
                self.families[family] = {}
                self.kinds[family] = other.kinds.get(family, "")
            mine = self.families[family]
            for name, value in samples.items():
                mine[name] = _combined(family, mine.get(name), value)

    def counters(self) -> "Samples":
        """Return only the counters and histograms, which are kept when their worker is gone."""
        kept = Samples()
        for family, kind in self.kinds.items():
            if kind in {"counter", "histogram"}:
                kept.heads[family] = self.heads[family]
                kept.families[family] = dict(self.families[family])
                kept.kinds[family] = kind
        return kept

    def text(self) -> str:
        """Return the samples in Prometheus's text format."""
        lines: list[str] = []
        for family, samples in self.families.items():
            lines += self.heads.get(family, [])
            lines += [f"{name} {value!r}" for name, value in samples.items()]
        return "\n".join(lines) + "\n"


def merge_metrics(texts: Iterable[str], past: Samples) -> str:
    """Return the sum over all workers, present and past."""
    total = Samples()
    for text in texts:
        total.add(Samples(text))
    total.add(past)
    return total.text()


def _combined(family: str, mine: float | None, other: float) -> float:
    if mine is None:
        return other
    if family in _LARGEST:
        return max(mine, other)
    if family in _LEAST:
        return min(mine, other)
    return mine + other
