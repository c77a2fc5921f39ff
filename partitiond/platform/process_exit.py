"""Waits for the end of processes, whether or not they are this process's children."""

import asyncio
import os
from typing import Final

from partitiond.platform.process_identity import SHORTAGE, Identified, is_alive

AGAIN_SECONDS: Final = 1.0
"""Pause before a process is asked for again by one that could open nothing. Chosen."""


def open_pidfd(process: Identified) -> int | None:
    """Open a file descriptor that stays with the process; None if the process is gone.

    The identity is checked after opening, so the pid cannot have passed to another process
    unnoticed. Raises OSError: a shortage.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


async def wait_gone(process: Identified) -> None:
    """Return once the process is gone, and perhaps a zombie: a pidfd is readable then."""
    while True:
        try:
            descriptor = open_pidfd(process)
            break
        except OSError as error:
            if error.errno not in SHORTAGE:
                raise
            await asyncio.sleep(AGAIN_SECONDS)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
