"""Runs something in processes of its own, which see no others and so can end none.

A wrong version of what ends processes may end any: as root, those of the whole machine. Linux
gives processes a table of their own (`pid_namespaces(7)`), and all of them end when the first does.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

NEW_PROCESSES_AND_MOUNTS: Final = 0x20000000 | 0x00020000
DEATH_SIGNAL: Final = 1
PRIVATE: Final = 0x4000 | 0x40000
KILLED: Final = 128
"""As in shells: what is above it is a signal's number."""
LIBC: Final = ctypes.CDLL(None)


def can_be_apart() -> bool:
    """Whether this user may have a table of processes."""
    child = os.fork()
    if child == 0:
        os._exit(1 if LIBC.unshare(NEW_PROCESSES_AND_MOUNTS) else 0)
    return os.waitpid(child, 0)[1] == 0


def start_apart(work: Callable[[], int]) -> int:
    """The process that ends when `work` has; see `ended` for its status."""
    child = os.fork()
    if child == 0:
        _hand_on(_first, work)
    return child


def ended(status: int) -> int:
    """What `work` returned, or minus the signal that ended it, by the status of its process."""
    code = os.waitstatus_to_exitcode(status)
    return KILLED - code if code > KILLED else code


def _hand_on(then: Callable[[Callable[[], int]], int], work: Callable[[], int]) -> None:
    code = KILLED + signal.SIGKILL
    try:
        LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL)
        code = then(work)
    finally:
        os._exit(code)


def _first(work: Callable[[], int]) -> int:
    os.setsid()
    LIBC.unshare(NEW_PROCESSES_AND_MOUNTS)
    child = os.fork()
    if child == 0:
        _hand_on(_second, work)
    return _code(os.waitpid(child, 0)[1])


def _second(work: Callable[[], int]) -> int:
    """The first in the table, whom Linux makes parent of all that lose theirs."""
    if os.getpid() == 1:
        LIBC.mount(b"none", b"/", None, PRIVATE, None)
        LIBC.mount(b"proc", b"/proc", b"proc", 0, None)
    child = os.fork()
    if child == 0:
        os.setsid()
        _hand_on(lambda given: given(), work)
    while True:
        process, status = os.wait()
        if process == child:
            return _code(status)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else KILLED - code
