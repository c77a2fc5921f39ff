"""Measures the CPU time of each callback of an event loop, unaffected by other processes."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Callback:
    """One callback of the loop.

    Attributes:
        step: the step that was in progress (`LoopCpu.step`).
        what: the task's coroutine, or the function.
        seconds: CPU time that the loop's thread used in the callback.
    """

    step: str
    what: str
    seconds: float


class LoopCpu:
    """CPU time of the loop's callbacks since the counting began.

    Attributes:
        step: name of the current step; the caller sets it.
    """

    def __init__(self) -> None:
        self.step = ""
        self._callbacks: list[Callback] = []

    def ran(self, handle: asyncio.Handle, seconds: float) -> None:
        """Note one callback."""
        self._callbacks.append(Callback(self.step, _name(handle), seconds))

    def largest(self) -> tuple[Callback, ...]:
        """The largest callback of each step and function, the largest first."""
        best: dict[tuple[str, str], Callback] = {}
        for one in self._callbacks:
            key = one.step, one.what
            if key not in best or one.seconds > best[key].seconds:
                best[key] = one
        return tuple(sorted(best.values(), key=lambda one: one.seconds, reverse=True))


@contextlib.contextmanager
def counted_callbacks() -> Iterator[LoopCpu]:
    """Count all callbacks of event loops while the block runs."""
    counted, plain = LoopCpu(), asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        plain(handle)
        counted.ran(handle, time.thread_time() - began)

    setattr(asyncio.Handle, "_run", run)  # noqa: B010 - a method of asyncio's own
    try:
        yield counted
    finally:
        setattr(asyncio.Handle, "_run", plain)  # noqa: B010


def _name(handle: Any) -> str:
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return str(getattr(task.get_coro(), "__qualname__", task.get_name()))
    return str(getattr(callback, "__qualname__", callback))
