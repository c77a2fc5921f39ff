"""Solves in a process of its own, so that a long solve never stalls a request and can be ended.

The process has a time limit, kept by the parent, and a memory limit, kept by the kernel. It tells
how far it is, and ends with the best plan so far when asked to. Loading the solver takes a second
of CPU and 100 MB: a process that does nothing else loads it when the first plan is asked for, and
each solve is forked from that one. The daemon itself never loads it.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Plan
from partitiond.core.plan_answers import PlanProgress
from partitiond.planner.progress import OnProgress
from partitiond.planner.types import PlanRequest
from partitiond.planner.warm import is_warm

AHEAD_SECONDS: Final = 60.0
"""A daemon compiles the search once it has run so long: starts and first plans go before it."""
HANG_SECONDS: Final = 5.0
"""Starting takes a second or two: a process that took longer and was given up is replaced."""
SOLVER: Final = "partitiond.planner.api"
COMPILER: Final = (sys.executable, "-m", "partitiond.planner.warm")
log = logging.getLogger(__name__)


Answer = Plan | Infeasible | PartitiondError
"""What a process of the planner sends in the end: what `solve` gave, or raised."""


class PlannerFailedError(PartitiondError):
    """The planner's process ended without an answer; the running plan is untouched."""

    code = "planner_failed"


async def solve_in_process(
    request: PlanRequest,
    timeout_seconds: float,
    *,
    on_progress: OnProgress | None = None,
    memory_limit_bytes: int | None = None,
    stop: asyncio.Event | None = None,
) -> Plan | Infeasible:
    """`solve` in a process of its own, which is killed at the time limit or when cancelled.

    Args:
        timeout_seconds: wall-clock limit, loading the solver (about a second, once) included.
        on_progress: told of better plans and bounds, in the caller's event loop.
        memory_limit_bytes: what the process may allocate; None for no limit. Loading the solver
            alone takes about 300 MiB.
        stop: once set, the process ends with the best plan so far.

    Raises:
        PlannerFailedError: no answer within the limits, or the process died.
        PartitiondError: what `solve` raised.
    """
    solver: _Solver | None = None
    stopper = None
    try:
        async with asyncio.timeout(timeout_seconds):
            solver = await _started(request, memory_limit_bytes)
            if stop is not None:
                stopper = asyncio.create_task(_pass_on(stop, solver.connection))
            answer = await _answer(solver.connection, on_progress)
    except TimeoutError as error:
        raise PlannerFailedError(
            f"the planner gave no answer within {timeout_seconds:g} s.",
            hint="Raise planner.time_limit_seconds, or plan fewer models at once.",
        ) from error
    except (EOFError, ConnectionError) as error:
        raise _died(memory_limit_bytes) from error
    finally:
        if stopper is not None:
            stopper.cancel()
        if solver is not None:
            await _end(solver)
    if isinstance(answer, PartitiondError):
        raise answer
    return answer


async def compile_ahead(after_seconds: float = AHEAD_SECONDS) -> None:
    """Compile the search at low priority, where that was never done on this machine.

    In a process of its own, so that the first large plan need not wait for it; cancelled, that
    process ends.
    """
    await asyncio.sleep(after_seconds)
    if is_warm():
        return
    log.info("compiling the planner's search, once on this machine and at low priority")
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *COMPILER, stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if status == 0:
        log.info("the planner's search is compiled")
    else:
        log.warning("compiling the planner's search ended with status %d; plans do it", status)


@dataclasses.dataclass(frozen=True, slots=True)
class _Solver:
    """A process that solves, and this end of its pipe."""

    process: BaseProcess
    connection: Connection


async def _started(request: PlanRequest, memory_limit_bytes: int | None) -> _Solver:
    """Forked from the process that has loaded the solver; where that one fails, a fresh one.

    Raises:
        PlannerFailedError: neither can be started.
    """
    began = time.monotonic()
    try:
        return await _start("forkserver", request, memory_limit_bytes)
    except (OSError, EOFError) as error:
        log.warning("no solve can be forked (%s): this one gets a process of its own", error)
        _discard_server()
    except asyncio.CancelledError:
        if time.monotonic() - began > HANG_SECONDS:
            _discard_server()
        raise
    try:
        return await _start("spawn", request, memory_limit_bytes)
    except (OSError, EOFError) as error:
        raise PlannerFailedError(
            f"the planner's process cannot be started: {error}.",
            hint="See that this host has room for processes, memory and temporary files.",
        ) from error


async def _start(method: str, request: PlanRequest, memory_limit_bytes: int | None) -> _Solver:
    """Start it in a thread: loading the solver takes a second, and what is waited for may hang."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([SOLVER])
    ours, theirs = context.Pipe()
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(theirs, request, memory_limit_bytes), daemon=True, name="planner"
    )
    solver, started = _Solver(process, ours), concurrent.futures.Future[None]()

    def start() -> None:
        failed: BaseException | None = None
        try:
            process.start()
        except BaseException as error:  # noqa: BLE001 - whoever waits hears of it
            failed = error
        theirs.close()
        if not started.set_running_or_notify_cancel():  # who asked is gone
            _kill(solver)
        elif failed is None:
            started.set_result(None)
        else:
            started.set_exception(failed)

    # No thread of the loop's own: a daemon that ends waits for those.
    threading.Thread(target=start, name="planner-start", daemon=True).start()
    try:
        await asyncio.wrap_future(started)
    except BaseException:
        started.cancel()
        _kill(solver)
        raise
    return solver


def _kill(solver: _Solver) -> None:
    """End it, if it was started, and let go of the pipe."""
    with contextlib.suppress(ValueError, OSError):
        if solver.process.is_alive():
            solver.process.kill()
    with contextlib.suppress(OSError):
        solver.connection.close()


def _discard_server() -> None:
    """End the process that solves are forked from; the next solve starts another one."""
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


async def _answer(connection: Connection, on_progress: OnProgress | None) -> Answer:
    """The first message that is no progress. Raises EOFError: the other end is closed."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            message: Answer | PlanProgress = connection.recv()
            if not isinstance(message, PlanProgress):
                return message
            if on_progress is not None:
                on_progress(message)
    finally:
        loop.remove_reader(connection.fileno())


async def _pass_on(stop: asyncio.Event, connection: Connection) -> None:
    await stop.wait()
    # It may have answered and gone in this very moment.
    with contextlib.suppress(OSError):
        connection.send("stop")


async def _end(solver: _Solver) -> None:
    _kill(solver)
    await asyncio.to_thread(solver.process.join)
    with contextlib.suppress(ValueError):
        solver.process.close()


def _work(connection: Connection, request: PlanRequest, memory_limit_bytes: int | None) -> None:
    # An interrupt at the terminal reaches the whole group: ending us is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    if memory_limit_bytes is not None:
        # What is allocated, not what is mapped: libraries map far more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    answer: Answer
    try:
        # Here and not above: loaded already where this process was forked, never in the daemon.
        from partitiond.planner.api import solve

        answer = solve(request, connection.send, connection.poll)
    except PartitiondError as error:
        answer = error
    except MemoryError:
        answer = _died(memory_limit_bytes)
    except Exception as error:  # noqa: BLE001 - the parent must hear of any failure
        # The dynamic loader's words where a library does not fit into what may be allocated.
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            answer = _died(memory_limit_bytes)
        else:
            what = f"the planner's process failed: {type(error).__name__}: {error}"
            answer = PlannerFailedError(what, hint="Please report this.")
    # Who asked may be gone.
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()
    # A thread of the column generation may still be in its last round: nothing waits for it.
    os._exit(0)
