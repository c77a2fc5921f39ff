"""Which NVML library the binding uses: the system's, or one named by its path."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.errors import DeviceError

_NAME: Final = "libnvidia-ml.so.1"
_FOLDERS: Final = tuple(
    Path(folder)
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib",
        "/usr/local/nvidia/lib64",
    )
)
"""Where drivers and their container runtime install it."""
_loaded_paths: Final[set[Path]] = set()
"""Libraries that were loaded by path in this process."""


def use_library(path: Path | None) -> None:
    """Let the binding call this library from now on, in this process.

    Args:
        path: of a libnvidia-ml.so.1, as the one of a simulated host; None for the system's.

    Raises:
        DeviceError: the library cannot be loaded; the one used so far stays.
    """
    _install(_system() if path is None else _loaded(path))


@contextlib.contextmanager
def library_in_use(path: Path | None) -> Iterator[None]:
    """As `use_library`, until the end of the block. Raises DeviceError."""
    before = pynvml.nvmlLib
    use_library(path)
    try:
        yield
    finally:
        _install(before if before is not None else _system())


class _Absent:
    """Stands for a library that is not installed, once one of its name was loaded by path.

    The loader knows a library by its name as well: asked for the system's, it would give the
    simulated one again.
    """

    def __getattr__(self, name: str) -> Any:
        return lambda *_: int(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def _system() -> Any:
    """The system's library; None lets the binding look for it, which it does only once."""
    if not _loaded_paths:
        return None
    for folder in _FOLDERS:
        path = folder / _NAME
        if path.exists() and path.resolve() not in _loaded_paths:
            return ctypes.CDLL(str(path))
    return _Absent()


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        _loaded_paths.add(path.resolve())
    except OSError as error:
        raise DeviceError(
            f"the NVML library {path} cannot be loaded: {error}.",
            hint="Make the simulated host anew with `partitiond simulate create`, or unset "
            "gpu.simulated_host.",
            facts={"path": str(path)},
        ) from error
    return library


def _install(library: Any) -> None:
    with pynvml.libLoadLock:
        pynvml.nvmlLib = library
        # The binding keeps functions by name: those of the library before must not be called.
        pynvml._nvmlGetFunctionPointer_cache.clear()
