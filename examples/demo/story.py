"""Narrates the demo: numbered steps, how long each took, and a summary at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.rule import Rule

from partitiond.cli.columns import Column, table_of
from partitiond.core.units import format_duration


class Story:
    """Prints the steps of the demo and keeps their times."""

    def __init__(
        self, console: Console, steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self._steps = steps
        self._clock = clock
        self._started = clock()
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Run one numbered step; its time is kept even if it fails."""
        number = len(self.times) + 1
        self.console.print()
        if self.console.is_terminal:
            self.console.print(Rule(f"{number}/{self._steps} {title}", align="left"))
        else:
            self.console.print(f"== {number}/{self._steps} {title}", markup=False)
        began = self._clock()
        try:
            yield
        finally:
            self.times.append((title, self._clock() - began))

    def say(self, text: str) -> None:
        """Print a line of the story, without markup."""
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, picture: RenderableType) -> None:
        """Print a table or a drawing."""
        self.console.print(picture)

    @property
    def total_seconds(self) -> float:
        """Time since the story began."""
        return self._clock() - self._started

    def summary(self) -> RenderableType:
        """Return a table of how long each step took."""
        return table_of(
            [*self.times, ("all", self.total_seconds)],
            Column("step", lambda row: row[0]),
            Column(">time", lambda row: format_duration(row[1])),
            bold=lambda row: row[0] == "all",
        )
