"""Handles Ctrl-C in a search: the first asks for the best so far, the second ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from partitiond.cli.output import say


class Interrupts:
    """Whether the user has asked the search to end.

    Attributes:
        asked: Ctrl-C was pressed once.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether to end with the best so far."""
        return self.asked

    def pressed(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler of SIGINT. Raises KeyboardInterrupt the second time."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("Ending with the best so far; Ctrl-C once more ends at once.")


@contextmanager
def best_so_far() -> Iterator[Interrupts]:
    """Handles Ctrl-C during the block; outside the main thread, leaves Ctrl-C as it is."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = signal.signal(signal.SIGINT, interrupts.pressed)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
