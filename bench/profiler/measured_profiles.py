"""Reads measured profiles from files as sources of predictions, for several benchmarks."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.command import options
from partitiond.core.hardware.cpus import measured_cpu
from partitiond.core.hardware.kinds import HardwareSpec
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.performance.transfer_fit import Source, source_of, usable_points
from partitiond.core.profile.record import ProfileKind
from partitiond.devices.bandwidth import cpu_figures
from partitiond.devices.cpu import discover_cpu
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG


def parser(text: str | None) -> argparse.ArgumentParser:
    """Common options: files or folders, and the folder that keeps this CPU's figures."""
    found = options(text)
    found.add_argument("paths", nargs="*", type=Path, default=[Path("profiles")])
    found.add_argument(
        "--state-dir", type=Path, default=Path(".bench"), help="keeps what was measured of the CPU"
    )
    found.add_argument(
        "--assumed", action="store_true", help="assume the CPU's figures instead of measuring"
    )
    return found


def sources(given: argparse.Namespace) -> list[Source]:
    """Measured profiles of models in the catalog, in the order of their names."""
    return list(_sources(given.paths, None if given.assumed else given.state_dir))


def _sources(paths: Sequence[Path], state_dir: Path | None) -> Iterator[Source]:
    for path in profile_paths(paths):
        profile = read_profile(path)
        entry = CATALOG.get(profile.model)
        if profile.kind is not ProfileKind.MEASURED or profile.variant or entry is None:
            print(f"left out: {path.name} (not measured, a variant, or no model of the catalog)")
            continue
        if usable_points(profile):
            yield source_of(profile, entry.architecture, hardware(profile.hardware, state_dir))


def hardware(key: str, state_dir: Path | None) -> HardwareSpec:
    """The catalog's figures; for this host's CPU the measured ones, unless there is no folder."""
    if state_dir is not None and key.startswith("cpu-"):
        device = discover_cpu()
        if device.hardware == key:
            return measured_cpu(key, device.memory_bytes, cpu_figures(device, state_dir))
        print(f"{key} is not this host: its figures are assumed")
    return hardware_for_key(key)
