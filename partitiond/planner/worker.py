"""Solves in a process of its own, so that a long solve never stalls a request and can be ended.

The process has a time limit, kept by the parent, and a memory limit, kept by the kernel. It tells
how far it is, and ends with the best plan so far when asked to.
"""

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Plan
from partitiond.planner.api import solve
from partitiond.planner.instance import PlanRequest
from partitiond.planner.progress import OnProgress, Progress

STOP = "stop"
OUT_OF_MEMORY = "out of memory"


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
    """`solve` in a spawned process that is killed at the time limit or when cancelled.

    Args:
        request: the question.
        timeout_seconds: wall-clock limit, process start (about a second) included.
        on_progress: told of better plans and bounds, in the caller's event loop.
        memory_limit_bytes: what the process may allocate; None for no limit. Loading the solver
            alone takes about 300 MiB.
        stop: once set, the process ends with the best plan so far.

    Raises:
        PlannerFailedError: no answer within the limits, or the process died.
        PartitiondError: what `solve` raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work, args=(theirs, request, memory_limit_bytes), daemon=True, name="planner"
    )
    process.start()
    theirs.close()
    stopper = None if stop is None else asyncio.create_task(_pass_on(stop, ours))
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await _answer(ours, on_progress)
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
        await _end(process)
        ours.close()
    if isinstance(answer, PartitiondError):
        raise answer
    if isinstance(answer, Plan | Infeasible):
        return answer
    if answer == OUT_OF_MEMORY:
        raise _died(memory_limit_bytes)
    raise PlannerFailedError(f"the planner's process failed: {answer}", hint="Please report this.")


def _died(memory_limit_bytes: int | None) -> PlannerFailedError:
    if memory_limit_bytes is None:
        hint = "See the daemon's log; it may have been killed for memory."
    else:
        hint = (
            f"It may use {memory_limit_bytes // 2**20} MiB: allow it more, or plan fewer models "
            "at once."
        )
    return PlannerFailedError("the planner's process ended without an answer.", hint=hint)


async def _answer(connection: Connection, on_progress: OnProgress | None) -> object:
    """The first message that is no progress."""
    while True:
        await _readable(connection)
        message: object = connection.recv()
        if not isinstance(message, Progress):
            return message
        if on_progress is not None:
            on_progress(message)


async def _pass_on(stop: asyncio.Event, connection: Connection) -> None:
    await stop.wait()
    # It may have answered and gone in this very moment.
    with contextlib.suppress(OSError):
        connection.send(STOP)


async def _readable(connection: Connection) -> None:
    """Wait until the pipe has a message or its other end is closed."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())


async def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    await asyncio.to_thread(process.join)
    with contextlib.suppress(ValueError):
        process.close()


def _work(connection: Connection, request: PlanRequest, memory_limit_bytes: int | None) -> None:
    # An interrupt at the terminal reaches the whole group: ending us is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    if memory_limit_bytes is not None:
        # What is allocated, not what is mapped: libraries map far more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    answer: object
    try:
        answer = solve(request, connection.send, connection.poll)
    except PartitiondError as error:
        answer = error
    except MemoryError:
        answer = OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001 - the parent must hear of any failure
        answer = f"{type(error).__name__}: {error}"
    # Who asked may be gone.
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()
    # A thread of the column generation may still be in its last round: nothing waits for it.
    os._exit(0)
