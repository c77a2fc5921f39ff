"""Shows the progress of a long step: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from partitiond.core.units import format_duration

PLAIN_GAP_SECONDS: Final = 5.0
"""Least time between two lines of a log, however often the message changes."""
PLAIN_REPEAT_SECONDS: Final = 15.0
"""Time after which a log repeats an unchanged step, to show that the step is alive."""


class Reporter(Protocol):
    """Takes the progress of one step."""

    def update(
        self, message: str, fraction: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Show the progress; any rate of calls is fine."""
        ...


class PlainReporter:
    """Lines for logs: when the message changes, and periodically."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._shown_at = float("-inf")
        self._shown = ""

    def update(
        self, message: str, fraction: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Print a line if the message is new, or if no line came for a while."""
        now = self._clock()
        if message == self._shown and now - self._shown_at < PLAIN_REPEAT_SECONDS:
            return
        if now - self._shown_at < PLAIN_GAP_SECONDS:
            return
        self._shown, self._shown_at = message, now
        extras = [format_duration(now - self._started)]
        if fraction is not None:
            extras.append(f"{fraction:.0%}")
        if seconds_left is not None and seconds_left > 0:
            extras.append(f"{format_duration(seconds_left)} left")
        self._console.print(f"   {message} [{', '.join(extras)}]", markup=False, soft_wrap=True)


class BarReporter:
    """A rich progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, left="")

    def update(
        self, message: str, fraction: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Redraw the bar."""
        left = ""
        if seconds_left is not None and seconds_left > 0:
            left = f"{format_duration(seconds_left)} left"
        self._progress.update(
            self._task,
            description=message[:46],
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            left=left,
        )


@contextmanager
def reporting(console: Console) -> Iterator[Reporter]:
    """A reporter for one step; its bar disappears at the end."""
    if not console.is_terminal:
        yield PlainReporter(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarReporter(progress)
