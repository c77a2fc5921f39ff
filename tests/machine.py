"""Waits for what has no event, finds ports of this machine, ends processes, cleans environments."""

import asyncio
import contextlib
import inspect
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WAIT_SECONDS = 240.0
"""For what a test waits: far beyond what anything takes, so that only a hang fails."""
SLOWEST = 4
"""How many times as long as on a quiet machine something may take before it counts as a hang."""


def wait_for(
    what: str, check: Callable[[], T | None], *, seconds: float = 0, pause: float = 0.05
) -> T:
    """Poll until `check` gives something true; a test that waits for ever says for what.

    `seconds` is for what may take longer than anything usually does. Pauses grow to a twentieth of
    what was waited: a check may cost as much as what it waits for.
    """
    seconds = max(WAIT_SECONDS, seconds * SLOWEST)
    began = time.monotonic()
    while not (found := check()):
        if (waited := time.monotonic() - began) > seconds:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(max(pause, min(0.5, waited / 20)))
    return found


async def until(check: Callable[[], Any], what: str = "something") -> Any:
    """Do the same beside an event loop; `check` may be asynchronous."""
    pause = 0.001
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = check()
                if found := await found if inspect.isawaitable(found) else found:
                    return found
                await asyncio.sleep(pause)
                pause = min(0.1, pause * 1.5)
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_SECONDS:.0f} s in vain for {what}") from None


async def pace(seconds: float) -> None:
    """Let a peer take its time: an engine between two tokens, a client between two requests.

    No test waits by it.
    """
    await asyncio.sleep(seconds)


def signal_all(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """To each that is still there: of an engine's or a daemon's processes, the first that dies may
    take others along before it is their turn.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def no_files_left() -> Iterator[None]:
    """This process can open nothing meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 + max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def clean_environment(found: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours, without settings of the developer's own shell and the size of their terminal."""
    others = ("PARTITIOND_", "COLUMNS", "LINES")
    return {k: v for k, v in found.items() if not k.startswith(others)}


def free_port() -> int:
    """A port that nothing listens on, and below those that Linux gives to outgoing connections:
    of the thousands of some tests, one would have it before the process that it is for.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
