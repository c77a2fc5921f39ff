"""Runs `partitiond top` on a terminal: asks the daemon in a thread, draws, and reads keys."""

import dataclasses
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.live import Live

from partitiond.cli.watch.keys import KeyPresses
from partitiond.cli.watch.state import TopState, press
from partitiond.cli.watch.view import Screen, draw
from partitiond.core.errors import PartitiondError
from partitiond.core.events import Event
from partitiond.core.views.overview import Overview

LOOK_SECONDS: Final = 0.2
"""Most seconds until a new answer is on the screen; keys take effect at once."""
EVENTS: Final = 50


@dataclasses.dataclass(frozen=True, slots=True)
class OverviewReply:
    """One answer of the daemon.

    Attributes:
        events: the latest events, oldest first.
        note: why there is no newer answer.
    """

    overview: Overview
    events: Sequence[Event]
    note: str = ""


class OverviewPoller:
    """Asks the daemon periodically in a thread, so that a slow daemon does not delay keys.

    Attributes:
        latest: the newest look.
    """

    def __init__(
        self, look: Callable[[], OverviewReply], first: OverviewReply, seconds: float
    ) -> None:
        self.latest = first
        self._look = look
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="overview", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def end(self) -> None:
        """Stop asking."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self.latest = self._look()
            except PartitiondError as error:
                self.latest = dataclasses.replace(self.latest, note=f"{error.message} Tries again.")


def run(
    look: Callable[[], OverviewReply], state: TopState, console: Console, seconds: float
) -> None:
    """Show the overview until `q`. An error of the first look is raised, later errors are shown."""
    feed = OverviewPoller(look, look(), seconds)
    keys = KeyPresses(sys.stdin.fileno())
    feed.start()
    try:
        with keys.held(), Live(console=console, screen=True, auto_refresh=False) as live:
            shown = feed.latest
            drawn: object = None
            while not state.ended:
                if not state.paused:
                    shown = feed.latest
                size = console.size
                now = (shown, state, size)
                if now != drawn:
                    screen = Screen(size.width, size.height)
                    body = draw(shown.overview, shown.events, state, screen, shown.note)
                    live.update(body, refresh=True)
                    drawn = now
                key = keys.within(LOOK_SECONDS)
                if key:
                    state = press(state, key)
    except KeyboardInterrupt:
        return
    finally:
        feed.end()
