"""Starts the shim of one run folder, and leaves nothing behind if that fails."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable
from typing import Final, TypeVar

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.process import shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.journal import RunFolder
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.shortage import LACKED

log = logging.getLogger(__name__)

SEARCH_PATH: Final = "/usr/bin:/bin"
SHIM_SECONDS: Final = 15.0
"""The shim forks, writes two small files and answers, in milliseconds on an idle machine."""

Result = TypeVar("Result")


class Lifelines:
    """Pipes by which the shims notice the end of this process, whatever ends it.

    A pipe rather than PR_SET_PDEATHSIG: that signal follows the thread that forked, which may end
    long before its process does.
    """

    def __init__(self) -> None:
        self._ours: dict[str, int] = {}

    def open(self, folder: RunFolder) -> int:
        """Make a pipe for a run folder; returns the shim's end, which the caller closes."""
        self.close(folder)
        theirs, self._ours[str(folder.path)] = os.pipe()
        return theirs

    def close(self, folder: RunFolder) -> None:
        """Close our end of the pipe: a shim that still watches the other end kills its engine."""
        ours = self._ours.pop(str(folder.path), None)
        if ours is not None:
            os.close(ours)


async def to_end(awaitable: Awaitable[Result]) -> Result:
    """Await to the end even if this task is cancelled meanwhile; raise the cancellation then."""
    working = asyncio.ensure_future(awaitable)
    cancelled = False
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            cancelled = True
    result = working.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


async def spawn_or_undo(
    folder: RunFolder,
    lifeline: int | None = None,
    seconds: float = SHIM_SECONDS,
    *,
    begun: Awaitable[None] | None = None,
) -> EngineHandle:
    """Spawn the shim; leave no process behind on any failure, cancellation included.

    Args:
        begun: starts the shim in another way, and ends once it and its engine run.
    """
    spawning = asyncio.ensure_future(begun or spawn_shim(folder, lifeline, seconds))
    try:
        await asyncio.shield(spawning)
        handle = await process.look(folder.path, folder.handle)
        reached(FaultPoint.ENGINE_IDENTIFIED)
        if handle is None or handle.unread:
            raise StartFailedError(
                f"the supervisor of {folder.path.name} left no record of itself.",
                hint=f"See that {folder.path} is writable and its disk not full.",
            )
    except BaseException:
        with contextlib.suppress(asyncio.CancelledError):
            await to_end(_undo(folder, spawning))
        raise
    return handle


async def _undo(folder: RunFolder, spawning: "asyncio.Future[None]") -> None:
    """Kill, wait until the launch is over, and kill again what the launch started meanwhile."""
    await kill_all(folder)
    await asyncio.wait({spawning})
    if not spawning.cancelled():
        spawning.exception()
    await kill_all(folder)


async def kill_all(folder: RunFolder) -> tuple[int, ...]:
    """Kill the processes of a run folder; return the pids of those that outlive it."""
    return await process.kill_all(folder.path, await process.look(folder.path, folder.leader))


def shim_command(folder: RunFolder) -> list[str]:
    """Return the words that start the shim of a run folder."""
    return [sys.executable, "-I", "-S", shim.__file__, str(folder.path)]


def shim_environment(folder: RunFolder) -> dict[str, str]:
    """Return the shim's environment, marked: it can be found before it has written its identity."""
    return {"PATH": SEARCH_PATH, process.REPLICA_DIR_VARIABLE: str(folder.path)}


async def spawn_shim(
    folder: RunFolder,
    lifeline: int | None = None,
    seconds: float = SHIM_SECONDS,
) -> None:
    """Start the shim and wait until it says that the engine's process exists. Raises OSError: the
    host lacks what they take.

    Args:
        folder: a prepared run folder with a command.json.
        lifeline: read end of a pipe; the shim kills the engine when the pipe ends.
        seconds: how long the shim may take.
    """
    words = [] if lifeline is None else ["--with-parent", str(lifeline)]
    child = await asyncio.create_subprocess_exec(
        *shim_command(folder),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=shim_environment(folder),
        cwd="/",
        pass_fds=() if lifeline is None else (lifeline,),
    )
    reached(FaultPoint.SHIM_SPAWNED)
    try:
        async with asyncio.timeout(seconds):
            _, errors = await child.communicate()
    except TimeoutError as error:
        await kill_all(folder)
        await child.wait()
        raise StartFailedError(
            f"the supervisor for {folder.path.name} did not start in {seconds:g} s.",
            hint="The host is overloaded; try again.",
        ) from error
    if child.returncode == 0 and errors:
        log.warning("%s: %s", folder.path.name, errors.decode(errors="replace").strip()[-500:])
    if child.returncode != 0:
        said = errors.decode(errors="replace").strip()[-500:].rpartition("\n")[2]
        if child.returncode in LACKED:
            raise OSError(child.returncode, said)
        raise StartFailedError(
            f"the supervisor for {folder.path.name} could not start the engine: {said}.",
            hint="See that the cores exist and the run folder is writable.",
        )
