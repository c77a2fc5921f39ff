"""Compiled inner loops of the planner; only this package imports numba.

Kernels take and give flat arrays (see `planner.sites`), hold no lock of the interpreter while
they run, and are kept on disk once compiled.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from partitiond.planner import kept

if not kept.beside_sources():
    # It has its settings from the environment, and no annotations of them.
    numba.config.CACHE_DIR = str(kept.folder() or "")  # type: ignore[attr-defined]
Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile on first use, and keep the result on disk where a folder for it can be written."""
    return _compiled(function, counted=True)


def plain(function: Function) -> Function:
    """As `kernel`, for functions that make no arrays and only read and write those they get.

    Arrays are not counted as they are passed on. For functions that pass on many, a hundred times
    in a microsecond, that counting was nine tenths of the time (890 ns of 900 a call).
    """
    return _compiled(function, counted=False)


def _compiled(function: Function, *, counted: bool) -> Function:
    compiled: object
    # An option that numba's annotations leave out, and only where it is needed.
    options: dict[str, Any] = {} if counted else {"_nrt": False}
    try:
        compiled = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        # No writable folder for the cache: compile anew in every process.
        compiled = numba.njit(nogil=True, **options)(function)
    return cast(Function, compiled)
