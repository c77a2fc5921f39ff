"""An event loop whose clock goes on when nothing else is left to do: no pause can fail a test."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec

P = ParamSpec("P")

THREAD_SECONDS: Final = 60.0
"""How long a thread that works for the loop may take in real time."""


class _Selector(selectors.DefaultSelector):
    """In place of a wait until the next timer, has the clock show that time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> Any:
        if self.threads:  # what they bring comes before any time passes
            return super().select(0 if timeout == 0 else THREAD_SECONDS)
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen.")
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes only in `asyncio.sleep`, timeouts and timers, and costs nothing."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        self._virtual.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._virtual.threads += 1  # one waits for all others
        await super().shutdown_default_executor()
        self._virtual.threads -= 1

    def _thread_ended(self, _: object) -> None:
        self._virtual.threads -= 1


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Have a test run on virtual time."""

    @functools.wraps(test)
    def on_virtual_time(*args: P.args, **named: P.kwargs) -> None:
        run(test(*args, **named))

    return on_virtual_time


async def passes(seconds: float) -> None:
    """Let everybody do what they do in so much virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    done = loop.create_future()
    loop.call_later(seconds, done.set_result, None)
    await done
