"""Solves in a process of its own, so that a long solve never stalls a request and can be ended."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Plan
from partitiond.planner.api import solve
from partitiond.planner.instance import PlanRequest


class PlannerFailedError(PartitiondError):
    """The planner's process ended without an answer; the running plan is untouched."""

    code = "planner_failed"


async def solve_in_process(request: PlanRequest, timeout_seconds: float) -> Plan | Infeasible:
    """`solve` in a spawned process that is killed at the time limit or when cancelled.

    Args:
        request: the question.
        timeout_seconds: wall-clock limit, process start (about a second) included.

    Raises:
        PlannerFailedError: no answer within the limit, or the process died.
        PartitiondError: what `solve` raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, request), daemon=True, name="planner")
    process.start()
    theirs.close()
    try:
        async with asyncio.timeout(timeout_seconds):
            await _readable(ours)
        answer = ours.recv()
    except TimeoutError as error:
        raise PlannerFailedError(
            f"the planner gave no answer within {timeout_seconds:g} s.",
            hint="Raise planner.time_limit_seconds, or plan fewer models at once.",
        ) from error
    except EOFError as error:
        raise PlannerFailedError(
            "the planner's process ended without an answer.",
            hint="See the daemon's log; it may have been killed for memory.",
        ) from error
    finally:
        ours.close()
        await _end(process)
    if isinstance(answer, PartitiondError):
        raise answer
    if isinstance(answer, Plan | Infeasible):
        return answer
    raise PlannerFailedError(f"the planner's process failed: {answer}", hint="Please report this.")


async def _readable(connection: Connection) -> None:
    """Wait until the pipe has an answer or its other end is closed."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())


async def _end(process: multiprocessing.process.BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    await asyncio.to_thread(process.join)
    with contextlib.suppress(ValueError):
        process.close()


def _work(connection: Connection, request: PlanRequest) -> None:
    # An interrupt at the terminal reaches the whole group: ending us is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    answer: object
    try:
        answer = solve(request)
    except PartitiondError as error:
        answer = error
    except Exception as error:  # noqa: BLE001 - the parent must hear of any failure
        answer = f"{type(error).__name__}: {error}"
    connection.send(answer)
    connection.close()
