"""Counts the functions that numba compiles, as it compiles them."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from numba.core import event


class _Counter(event.Listener):
    def __init__(self, tell: Callable[[int], object]) -> None:
        self.count, self._tell = 0, tell

    def on_start(self, event: event.Event) -> None:
        pass

    def on_end(self, event: event.Event) -> None:  # noqa: ARG002 - given by numba
        self.count += 1
        self._tell(self.count)


def compiled_functions(tell: Callable[[int], object]) -> AbstractContextManager[object]:
    """Call `tell` with the number of functions compiled so far, without those loaded from disk.

    Functions of numba itself, such as sorting, are counted together with ours.
    """
    return event.install_listener("numba:compile", _Counter(tell))
