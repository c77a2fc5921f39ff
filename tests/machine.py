"""Measures what this machine can do now, so that a test's bound on a time adapts; finds its ports
and processes."""

import contextlib
import functools
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import ParamSpec

SLOWEST = 4
"""How many times as long as on a quiet machine something may take before it counts as a hang."""
TRIES = 3
"""Of a test that measures a time."""

P = ParamSpec("P")


class TimingError(AssertionError):
    """A time that was measured is not as it should be."""


@contextlib.contextmanager
def timing() -> Iterator[None]:
    """Around the assertions of a `timed` test that are about times: only those are tried again."""
    try:
        yield
    except AssertionError as error:
        raise TimingError(*error.args) from error


def timed(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """For a test of how long something takes: one of three tries meets no pause of the machine."""

    @functools.wraps(test)
    async def tried(*args: P.args, **kwargs: P.kwargs) -> None:
        for _ in range(TRIES - 1):
            with contextlib.suppress(TimingError):
                await test(*args, **kwargs)
                return
        await test(*args, **kwargs)

    return tried


def start_seconds() -> float:
    """What it takes here and now to start Python and import a proxy: the median of three."""
    took = []
    for _ in range(3):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import partitiond.proxy.__main__"], check=True)
        took.append(time.monotonic() - begun)
    return statistics.median(took)


def in_time(took: float, seconds: float, *, starts: int) -> bool:
    """Whether it took less than so many seconds; where the machine is too slow now for that, less
    than so many bare starts, which are measured only then.
    """
    return took < seconds or took < starts * start_seconds()


def signal_all(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """To each that is still there: of an engine's or a daemon's processes, the first that dies may
    take others along before it is their turn.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port() -> int:
    """A port that nothing listens on, and below those that Linux gives to outgoing connections:
    of the thousands of some tests, one would have it before the process that it is for.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
