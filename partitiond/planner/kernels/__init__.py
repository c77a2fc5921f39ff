"""Compiles the planner's inner loops; only this package imports numba.

Kernels take and return flat arrays (see `planner.model.sites`), do not hold the interpreter's lock
while they run, and are kept on disk once compiled.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import _CacheLocator

from partitiond.planner import kernel_cache as kept

Function = TypeVar("Function", bound=Callable[..., object])


class ByContent(_CacheLocator):
    """Keeps a compiled function in the folder that is named after the sources' content.

    numba's own locators have the path of the sources in their folders' names, so that each copy
    of the same sources would be compiled anew.
    """

    def __init__(self, line: int, folder: Path) -> None:
        self._line = line
        self._folder = folder

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return the hash of all kernels."""
        return kept.digest()

    def get_disambiguator(self) -> str:
        """Return the line of the function, which tells it from others of its name."""
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, file: str) -> "ByContent | None":
        """Return the locator of a function of this package; None if there is no folder for it."""
        folder = kept.folder()
        if folder is None or Path(file).parent != Path(__file__).parent:
            return None
        return cls(function.__code__.co_firstlineno, folder)


# numba reads its settings from the environment, and has no annotations for them.
numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{ByContent.__name__}"  # type: ignore[attr-defined]


def kernel(function: Function) -> Function:
    """Compile on first use, and keep the result on disk if there is a writable folder for it."""
    return _compiled(function, counted=True)


def plain(function: Function) -> Function:
    """Compile like `kernel`, for functions that make no arrays and only use those they are passed.

    Passing arrays does not count references. For functions that pass on many arrays, a hundred
    times in a microsecond, counting was nine tenths of the time (890 ns of 900 a call).
    """
    return _compiled(function, counted=False)


def _compiled(function: Function, *, counted: bool) -> Function:
    compiled: object
    # numba's annotations leave this option out, so it is passed only if it is needed.
    options: dict[str, Any] = {} if counted else {"_nrt": False}
    try:
        compiled = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        # There is no writable folder for the cache: compile anew in every process.
        compiled = numba.njit(nogil=True, **options)(function)
    return cast(Function, compiled)
