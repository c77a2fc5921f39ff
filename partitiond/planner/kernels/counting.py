"""Counts what numba compiles, as it goes on."""

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
    """Tells the number of functions compiled within, after each; what is on disk is not compiled.

    Functions that numba brings along, as sorting, are counted with ours.
    """
    return event.install_listener("numba:compile", _Counter(tell))
