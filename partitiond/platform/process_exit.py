"""Waits for the end of processes, whether or not they are this process's children."""

import asyncio
import os

from partitiond.platform.process_identity import Identified, is_alive


def open_pidfd(process: Identified) -> int | None:
    """Open a file descriptor that stays with the process; None if the process is gone.

    The identity is checked after opening, so the pid cannot have passed to another process
    unnoticed.
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
    descriptor = open_pidfd(process)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
