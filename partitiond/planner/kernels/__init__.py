"""Compiles the planner's inner loops; only this package imports numba.

Kernels take and return flat arrays (see `planner.model.sites`), do not hold the interpreter's lock
while they run, and are kept on disk once compiled.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from partitiond.planner import kernel_cache as kept

if not kept.beside_sources():
    # numba reads its settings from the environment, and has no annotations for them.
    numba.config.CACHE_DIR = str(kept.folder() or "")  # type: ignore[attr-defined]
Function = TypeVar("Function", bound=Callable[..., object])


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
