"""Counts what Python runs, to compare the work for one size with that for twice the size.

Seconds depend on the machine and on its other programs; instructions do not.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Operations:
    """The bytecode instructions of our own modules that ran in this thread."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, what: str, _: Any) -> Any:
        """Count, as `sys.settrace` wants it."""
        if what == "call":
            if not frame.f_globals.get("__name__", "").startswith("partitiond"):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += what == "opcode"
        return self.trace


@contextlib.contextmanager
def counted_operations() -> Iterator[Operations]:
    """Count while the block runs, in all tasks of this thread."""
    found, before = Operations(), sys.gettrace()
    sys.settrace(found.trace)
    try:
        yield found
    finally:
        sys.settrace(before)


def operations(work: Callable[[], object]) -> int:
    """Return how many instructions a call takes."""
    with counted_operations() as found:
        work()
    return found.count
