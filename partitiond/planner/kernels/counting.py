"""Counts what numba compiles, as it goes on."""

import contextlib
from collections.abc import Callable, Iterator

from numba.core import event


class _Counter(event.Listener):
    def __init__(self, tell: Callable[[int], object]) -> None:
        self.count, self._tell = 0, tell

    def on_start(self, event: event.Event) -> None:
        pass

    def on_end(self, event: event.Event) -> None:  # noqa: ARG002 - given by numba
        self.count += 1
        self._tell(self.count)


@contextlib.contextmanager
def compiled_functions(tell: Callable[[int], object]) -> Iterator[None]:
    """Tells the number of functions compiled within, after each; what is on disk is not compiled.

    Functions that numba brings along, as sorting, are counted with ours.
    """
    counter = _Counter(tell)
    event.register("numba:compile", counter)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        event.unregister("numba:compile", counter)  # type: ignore[no-untyped-call]
