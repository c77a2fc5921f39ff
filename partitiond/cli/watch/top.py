"""Implements `partitiond top`: shows devices, models and replicas at work, live."""

import sys
from typing import TYPE_CHECKING

import typer

from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import out, print_json
from partitiond.cli.watch.screen import EVENTS, OverviewReply, run
from partitiond.cli.watch.state import SORTS, TopState, seen
from partitiond.cli.watch.view import Screen, draw
from partitiond.core.errors import InputError

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


@spread
def top(
    ctx: typer.Context,
    *,
    once: bool = option("Print it once and end."),
    interval: float = option("Seconds between two looks.", default=2.0, min=0.2, max=60),
    sort: str = option("Order.", default="name", metavar="name|demand|tokens|ttft|queue"),
    find: str = option("Only what has this in its name.", default="", metavar="TEXT"),
    as_json: JsonOption = False,
) -> None:
    """Watch devices, models and replicas at work; `h` shows the keys.

    Where the output is no terminal, it is printed once.
    """
    if sort not in SORTS:
        raise InputError(
            f"--sort {sort!r}: there is no such order.", hint=f"Use {', '.join(SORTS)}."
        )
    state = TopState(sort=sort, find=find)
    with client_of(ctx) as client:
        if as_json:
            print_json(seen(client.overview(), state))
            return
        console = out()
        if once or not (console.is_terminal and _typed_at()):
            look = _look(client)
            console.print(draw(look.overview, look.events[-10:], state, Screen(console.width)))
            return
        run(lambda: _look(client), state, console, interval)


def _look(client: "ControlClient") -> OverviewReply:
    overview = client.overview()
    events = client.events(after=max(0, overview.last_event - EVENTS), limit=EVENTS)
    return OverviewReply(overview, events)


def _typed_at() -> bool:
    """Whether a user can press keys: standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()
