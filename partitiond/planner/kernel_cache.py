"""Finds the folder of compiled kernels, and its stamp; imports no numba."""

import functools
import hashlib
import importlib.util
import os
import platform
from pathlib import Path
from typing import Final

import platformdirs

_SOURCES: Final = Path(__file__).with_name("kernels")
_BESIDE: Final = _SOURCES / "__pycache__"


@functools.cache
def folder() -> Path | None:
    """Return the kernels' folder: NUMBA_CACHE_DIR, beside the sources, or in the user's cache.

    None if no such folder is writable: every process then compiles the kernels.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        places = [Path(named)]
    else:
        places = [_BESIDE, platformdirs.user_cache_path("partitiond") / "planner" / _digest()]
    return next((place for place in places if _writable(place)), None)


def beside_sources() -> bool:
    """Return whether kernels are kept in numba's default place."""
    return folder() == _BESIDE


def stamp() -> Path | None:
    """Return the file that shows that all kernels are compiled from the present sources."""
    there = folder()
    return None if there is None else there / f"kernels-{_digest()}.compiled"


def forget_former() -> None:
    """Remove results of other sources, because numba does not see changes of imported kernels."""
    if not beside_sources():
        return
    for pattern in ("*.nbi", "*.nbc", "kernels-*.compiled"):
        for former in _BESIDE.glob(pattern):
            former.unlink(missing_ok=True)


@functools.cache
def _digest() -> str:
    digest = hashlib.sha256(
        f"{_SOURCES}\n{platform.python_version()}\n{platform.machine()}".encode()
    )
    for name in ("numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        digest.update(str(found.origin if found is not None else "").encode())
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _writable(place: Path) -> bool:
    there = next(f for f in (place, *place.parents) if f.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
