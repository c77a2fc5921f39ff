"""Merges the answers of several workers into one for the daemon: GET /state and GET /metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from partitiond.proxy.telemetry import families

_LARGEST: Final = frozenset({families.LIMIT.name, families.EJECTED.name})
"""Gauges of one quantity that every worker reports; most other gauges are shares of a sum."""
_LEAST: Final = frozenset({families.VERSION.name, families.PEERS.name})


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge states: counts are summed; a model is as idle as in the worker that used it last."""
    idle: dict[str, float] = {}
    for state in states:
        for name, seconds in state["idle_seconds"].items():
            idle[name] = min(seconds, idle.get(name, seconds))
    merged: dict[str, Any] = {
        "in_flight": _sums(state["in_flight"] for state in states),
        "queues": _sums(state["queues"] for state in states),
        "idle_seconds": idle,
    }
    keys = [state["keys"] for state in states if "keys" in state]
    if keys:
        merged["keys"] = _key_use(keys)
    return merged


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _key_use(uses: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    total: dict[str, dict[str, float]] = {}
    for each in uses:
        for name, use in each.items():
            sums = total.setdefault(name, dict.fromkeys(use, 0))
            for field, value in use.items():
                sums[field] = sums.get(field, 0) + value
    return total


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
