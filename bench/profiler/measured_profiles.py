"""Reads measured profiles from files as sources of predictions."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.command import options
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.performance.transfer_fit import Source, source_of, usable_points
from partitiond.core.profile.record import ProfileKind
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG


def parser(text: str | None) -> argparse.ArgumentParser:
    """Common options: files or folders."""
    found = options(text)
    found.add_argument("paths", nargs="*", type=Path, default=[Path("profiles")])
    return found


def sources(given: argparse.Namespace) -> list[Source]:
    """Measured profiles of models in the catalog, in the order of their names."""
    return list(_sources(given.paths))


def _sources(paths: Sequence[Path]) -> Iterator[Source]:
    for path in profile_paths(paths):
        profile = read_profile(path)
        entry = CATALOG.get(profile.model)
        if profile.kind is not ProfileKind.MEASURED or profile.variant or entry is None:
            print(f"left out: {path.name} (not measured, a variant, or no model of the catalog)")
            continue
        if usable_points(profile):
            yield source_of(profile, entry.architecture, hardware_for_key(profile.hardware))
