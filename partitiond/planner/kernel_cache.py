"""Finds the folder of compiled kernels, and its stamp; imports no numba."""

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

import platformdirs

_SOURCES: Final = Path(__file__).with_name("kernels")


@functools.cache
def folder() -> Path | None:
    """Return the kernels' folder: NUMBA_CACHE_DIR, or one in the user's cache.

    Its name is a hash of the sources, so that each copy of the same sources finds what another
    has compiled, and none finds what other sources made: numba itself does not see changes of
    imported kernels. None if no such folder is writable: every process then compiles the kernels.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(named) if named else platformdirs.user_cache_path("partitiond") / "planner"
    return base / digest() if _writable(base) else None


def stamp() -> Path | None:
    """Return the file that shows that all kernels are compiled from the present sources."""
    there = folder()
    return None if there is None else there / "complete"


@functools.cache
def digest() -> str:
    """Return a hash of the kernels' sources and of what compiles them."""
    found = hashlib.sha256(f"{platform.python_version()}\n{platform.machine()}".encode())
    for name in ("numba", "llvmlite"):
        found.update(_version(name).encode())
    for source in sorted(_SOURCES.glob("*.py")):
        found.update(source.name.encode() + source.read_bytes())
    return found.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _writable(place: Path) -> bool:
    there = next(f for f in (place, *place.parents) if f.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
