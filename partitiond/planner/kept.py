"""Where compiled kernels are kept, and whether they are there; imports no numba."""

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
    """The folder of compiled kernels: NUMBA_CACHE_DIR, beside their sources, or the user's cache.

    None where it cannot be written to: kernels are compiled in every process then.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        places = [Path(named)]
    else:
        places = [_BESIDE, platformdirs.user_cache_path("partitiond") / "planner" / _digest()]
    return next((place for place in places if _writable(place)), None)


def beside_sources() -> bool:
    """Whether they are kept where numba keeps them by itself."""
    return folder() == _BESIDE


def stamp() -> Path | None:
    """The file that stands for all kernels, compiled from the sources as they are."""
    there = folder()
    return None if there is None else there / f"kernels-{_digest()}.compiled"


def forget_former() -> None:
    """Remove what was compiled of other sources: numba does not see changes of imported kernels."""
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
