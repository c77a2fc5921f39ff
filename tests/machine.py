"""Finds ports of this machine, ends processes, and says how slow it may be."""

import contextlib
import os
import random
import signal
import socket
from collections.abc import Iterable

SLOWEST = 4
"""How many times as long as on a quiet machine something may take before it counts as a hang."""


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
