"""Measures the energy of the host's CPU packages by counters of the kernel.

Powercap's RAPL zones (Intel, and AMD since Linux 5.8) count microjoules per package and wrap around
at `max_energy_range_uj`. Since 2020 the kernel lets only root read them (CVE-2020-8694). A figure
without one of the packages would be wrong without looking wrong, so either all packages are counted
or none.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MICRO: Final = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Counter:
    """One package's energy counter.

    Attributes:
        path: file with microjoules since some point in time.
        range_microjoules: value at which the counter wraps around; 0 if it never does.
    """

    path: Path
    range_microjoules: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class EnergyCounters:
    """The counters of all packages, or why there are none.

    Attributes:
        source: "rapl"; empty without counters.
        why_not: reason; empty with counters.
    """

    source: str
    counters: tuple[Counter, ...]
    why_not: str = ""


def find_counters(root: Path = Path("/")) -> EnergyCounters:
    """Find the counters of all packages of this host."""
    counters = _powercap(root)
    if not counters:
        return EnergyCounters(
            "", (), "the kernel shows no energy counters (virtual machines mostly have none)"
        )
    unreadable = next((c.path for c in counters if _read(c.path) is None), None)
    if unreadable is None:
        return EnergyCounters("rapl", tuple(counters))
    return EnergyCounters(
        "", (), f"{unreadable} may not be read: run as root, or let the group read it"
    )


class EnergyMeter:
    """Counts joules since its creation. `update` must be called at least once per wrap of a
    counter, which takes minutes at full power.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = tuple(counters)
        self._last = [_read(counter.path) for counter in self._counters]
        self._microjoules = 0
        self._broken = not counters or None in self._last

    def update(self) -> None:
        """Add what was used since the last call."""
        for index, counter in enumerate(self._counters):
            now, before = _read(counter.path), self._last[index]
            if now is None or before is None:
                self._broken = True
                continue
            step = now - before
            if step < 0:
                step += counter.range_microjoules
            self._broken = self._broken or step < 0
            self._microjoules += step
            self._last[index] = now

    def joules(self) -> float | None:
        """Return the energy so far; None if a counter disappeared or ran backwards."""
        return None if self._broken else self._microjoules * MICRO


def _powercap(root: Path) -> list[Counter]:
    """Return zones named package-N. Other zones ("psys", "core", "dram", -mmio) overlap them."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if zone.name.count(":") == 1 and _text(zone / "name").startswith("package"):
            limit = _read(zone / "max_energy_range_uj") or 0
            found.append(Counter(zone / "energy_uj", limit))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
