"""Solves in a separate process, so that a long solve never blocks a request and can be ended.

The parent enforces the process's time limit, the kernel its memory limit. The process reports its
progress. Loading the solver takes a second of CPU and 70 MiB. A process that does nothing else
therefore loads it when the first plan is requested, and each solve is forked from that process. The
daemon itself never loads the solver.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from partitiond.core.errors import PartitiondError
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import OnProgress

HANG_SECONDS: Final = 5.0
"""Starting takes a second or two: the fork server is replaced if a cancelled start took longer."""
SOLVER: Final = "partitiond.planner.api"
log = logging.getLogger(__name__)


Answer = Plan | Infeasible | PartitiondError
"""The last message of a planner process: what `solve` returned or raised."""


class PlannerFailedError(PartitiondError):
    """The planner's process ended without an answer; the running plan is untouched."""

    code = "planner_failed"


async def solve_in_process(
    request: PlanRequest,
    timeout_seconds: float,
    *,
    on_progress: OnProgress | None = None,
    memory_limit_bytes: int | None = None,
) -> Plan | Infeasible:
    """Run `solve` in a separate process, which is killed at the time limit or when cancelled.

    Args:
        timeout_seconds: wall-clock limit, including loading the solver once (about a second).
        on_progress: called with better plans and bounds, in the caller's event loop.
        memory_limit_bytes: memory the process may allocate; None for no limit. Loading the solver
            alone takes about 300 MiB.

    Raises:
        PlannerFailedError: no answer within the limits, or the process died.
        PartitiondError: what `solve` raised.
    """
    solver: _Solver | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            solver = await _started(request, memory_limit_bytes)
            while isinstance(message := await solver.said.get(), PlanProgress):
                if on_progress is not None:
                    on_progress(message)
    except TimeoutError as error:
        raise PlannerFailedError(
            f"the planner gave no answer within {timeout_seconds:g} s.",
            hint="Raise planner.time_limit_seconds, or plan fewer models at once.",
        ) from error
    finally:
        if solver is not None:
            await _end(solver)
    if isinstance(message, EOFError | ConnectionError):
        raise _died(memory_limit_bytes) from message
    if isinstance(message, Exception):
        raise message
    assert message is not None  # which is said once, of the start
    return message


@dataclasses.dataclass(frozen=True, slots=True)
class _Solver:
    """A process that solves, its messages (first None: it has started), and whether it is gone.

    One thread owns the process and its pipe: it starts it, reads, waits for its end and closes. A
    read of a pipe may block, for ever if the process is stopped, so the loop never reads one.
    """

    process: BaseProcess
    said: asyncio.Queue[Answer | PlanProgress | Exception | None]
    ended: asyncio.Event


async def _started(request: PlanRequest, memory_limit_bytes: int | None) -> _Solver:
    """Fork a solver from the process that has loaded it; if forking fails, spawn a fresh process.

    Raises:
        PlannerFailedError: neither can be started.
    """
    began = time.monotonic()
    try:
        return await _start("forkserver", request, memory_limit_bytes)
    except (OSError, EOFError, RuntimeError) as error:
        log.warning("no solve can be forked (%s): this one gets a process of its own", error)
        _discard_server()
    except asyncio.CancelledError:
        if time.monotonic() - began > HANG_SECONDS:
            _discard_server()
        raise
    try:
        return await _start("spawn", request, memory_limit_bytes)
    except (OSError, EOFError, RuntimeError) as error:
        raise PlannerFailedError(
            f"the planner's process cannot be started: {error}.",
            hint="See that this host has room for processes, memory and temporary files.",
        ) from error


async def _start(method: str, request: PlanRequest, memory_limit_bytes: int | None) -> _Solver:
    """Start the process in a thread: loading the solver takes a second, and starting may hang."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([SOLVER])
    ours, theirs = context.Pipe()
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(theirs, memory_limit_bytes), daemon=True, name="planner"
    )
    solver = _Solver(process, asyncio.Queue(), asyncio.Event())
    loop, given_up = asyncio.get_running_loop(), threading.Event()

    def tell(callback: Callable[..., object], *words: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback, *words)

    def run() -> None:
        with ours:
            try:
                with theirs:
                    _leave_lost_folder()
                    process.start()
                tell(solver.said.put_nowait, None)
                if given_up.is_set():
                    _kill(process)
                ours.send(request)  # after the start: a process that is stopped can be killed
                while True:
                    tell(solver.said.put_nowait, ours.recv())
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                tell(solver.said.put_nowait, error)
        _kill(process)
        if process.pid is not None:
            process.join()
        process.close()
        tell(solver.ended.set)

    # Not a thread of the loop's executor: a daemon that shuts down waits for those.
    threading.Thread(target=run, name="planner", daemon=True).start()
    try:
        failed = await solver.said.get()
    except BaseException:
        given_up.set()
        _kill(process)
        raise
    if isinstance(failed, Exception):
        raise failed
    return solver


def _leave_lost_folder() -> None:
    """Leave this process's working folder if it was removed: multiprocessing asks for its path."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


def _kill(process: BaseProcess) -> None:
    """Kill the process if it was started and runs."""
    with contextlib.suppress(ValueError, OSError):
        if process.is_alive():
            process.kill()


def _discard_server() -> None:
    """Kill the process that solves are forked from; the next solve starts another one."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _died(memory_limit_bytes: int | None) -> PlannerFailedError:
    hint = "See the daemon's log; it may have been killed for memory."
    if memory_limit_bytes is not None:
        most = f"{memory_limit_bytes // 2**20} MiB"
        hint = f"It may use {most}: allow it more, or plan fewer models at once."
    return PlannerFailedError("the planner's process ended without an answer.", hint=hint)


async def _end(solver: _Solver) -> None:
    """Kill the process and wait until nothing of it is left, for a while if it cannot be killed."""
    _kill(solver.process)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(solver.ended.wait(), HANG_SECONDS)


def _work(connection: Connection, memory_limit_bytes: int | None) -> None:
    # An interrupt at the terminal reaches the whole group, but the parent decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    gc.set_threshold(50_000, 20, 100)  # 150,000 sizes are looked at again and again else
    if memory_limit_bytes is not None:
        # RLIMIT_DATA limits allocated, not mapped memory: libraries map far more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    answer: Answer
    try:
        # Imported here: already loaded in the process this was forked from, never in the daemon.
        from partitiond.planner.api import solve

        answer = solve(connection.recv(), connection.send)
    except PartitiondError as error:
        answer = error
    except MemoryError:
        answer = _died(memory_limit_bytes)
    except Exception as error:  # noqa: BLE001 - the parent must hear of any failure
        # The dynamic loader's words for a library that does not fit into the memory limit.
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            answer = _died(memory_limit_bytes)
        else:
            what = f"the planner's process failed: {type(error).__name__}: {error}"
            answer = PlannerFailedError(what, hint="Please report this.")
    # The caller may be gone.
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()
    # A thread of CP-SAT that was told to stop may still be ending; do not wait for it.
    os._exit(0)
