"""Chooses the NVML library that the binding uses: the system's, or one named by its path."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pynvml

from partitiond.core.errors import DeviceError


def use_library(path: Path | None) -> None:
    """Let the binding call this library from now on, in this process.

    Args:
        path: path of a libnvidia-ml.so.1, such as a simulated host's; None for the system's.

    Raises:
        DeviceError: the library cannot be loaded; the one used so far stays.
    """
    _install(None if path is None else _loaded(path))


@contextlib.contextmanager
def library_in_use(path: Path | None) -> Iterator[None]:
    """Use a library, as `use_library` does, until the end of the block. Raises DeviceError."""
    before = pynvml.nvmlLib
    use_library(path)
    try:
        yield
    finally:
        _install(before)


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"the NVML library {path} cannot be loaded: {error}.",
            hint="Make the simulated host anew with `partitiond tools simulate create`, or unset "
            "gpu.simulated_host.",
            facts={"path": str(path)},
        ) from error


def _install(library: ctypes.CDLL | None) -> None:
    """Install a library; with None the binding finds the system's by name, only once."""
    with pynvml.libLoadLock:
        pynvml.nvmlLib = library
        # The binding caches functions by name; the previous library's must not be called.
        pynvml._nvmlGetFunctionPointer_cache.clear()
