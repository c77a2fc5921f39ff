"""Runs tests of hosts on virtual time, each on a loop of its own (see `tests.proxy.virtual`)."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.proxy.virtual import VirtualLoop

P = ParamSpec("P")


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
    await asyncio.sleep(seconds)
