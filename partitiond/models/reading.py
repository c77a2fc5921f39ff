"""Looks at files of models beside the event loop, with a deadline.

A model's files may lie on a file system that hangs, such as a dead NFS mount. Then the call that
reads there never returns, and no other model has to wait for it (decision 0016).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from partitiond.core.errors import ModelSourceError, SilentError
from partitiond.platform.deadline_calls import DeadlineCalls

T = TypeVar("T")

_FILES: Final = DeadlineCalls()


async def look_at(folder: Path, look: Callable[[], T], seconds: float | None = None) -> T:
    """Return what a look at a model's folder finds.

    Args:
        folder: names the subject: while a look there hangs, others there are refused.
        look: reads or writes there; made in a thread of the folder's own.
        seconds: deadline; that of `DeadlineCalls` if None.

    Raises:
        ModelSourceError: the file system does not answer; and what the look raises.
    """
    try:
        return await _FILES.look(f"the files in {folder}", look, seconds)
    except SilentError as error:
        raise ModelSourceError(
            error.message,
            hint="Its file system hangs: see `dmesg`, and whether its server answers. The files "
            "are looked for again once it does.",
            facts={"folder": str(folder)},
        ) from error
