"""Implements `partitiond events`: shows what happened, why, and who asked for it."""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import typer

from partitiond.cli.columns import time_text
from partitiond.cli.options import JsonOption, client_of, moment, option, spread
from partitiond.cli.output import emit, out, say
from partitiond.cli.tables import events_table
from partitiond.core.errors import (
    DaemonTimeoutError,
    DaemonUnreachableError,
    NotReadyError,
)
from partitiond.core.events import Event, EventFilter
from partitiond.serde import to_jsonable

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

PAGE: Final = 1000
"""Events per request; the API returns no more."""
PAUSE_SECONDS: Final = 1.0


@spread
def events(
    ctx: typer.Context,
    *,
    after: int = option("Only events with a larger id.", default=0),
    limit: int | None = option("At most so many; 50, with --lines all there are.", min=1),
    kind: list[str] | None = option("Only of this kind; plan-* is all that begin so. Repeatable."),
    subject: str = option("Only about this model, replica, job, key; opt-* as above.", default=""),
    actor: str = option("Only what this one asked for, as ada@*; * is anybody.", default=""),
    since: str = option(
        "Only since this moment (ISO 8601, UTC) or so long ago (2h, 7d).", default=""
    ),
    until: str = option("Only before this moment, or so long ago.", default=""),
    follow: bool = option("Go on as they happen.", "--follow", "-f"),
    lines: bool = option("Print each event as one line of JSON (export)."),
    as_json: JsonOption = False,
) -> None:
    """Show what happened, why, and who asked for it.

    The newest come first; with --after, --follow, --lines or --json they come as they happened.
    """
    wanted = EventFilter(
        tuple(kind or ()), subject, actor, moment(since, "--since"), moment(until, "--until")
    )
    with client_of(ctx) as client:
        if lines:
            last = _print_lines(itertools.islice(_all(client, after, wanted), limit), after)
        else:
            last = _print_table(client, after, wanted, limit or 50, follow, as_json=as_json)
        if follow:
            _follow(client, last, wanted, plain=not (lines or as_json))


def _follow(client: "ControlClient", last: int, wanted: EventFilter, *, plain: bool) -> None:
    """Print new events for ever, even if the daemon is restarted meanwhile."""
    wanted = _from_the_begin(wanted)
    answers = True
    while True:
        time.sleep(PAUSE_SECONDS)
        try:
            # One page at a time: `last` is up to date before the next request may fail.
            page = client.events(last, PAGE, wanted)
        except (DaemonUnreachableError, DaemonTimeoutError, NotReadyError) as error:
            if answers:
                say(f"{error.message.rstrip('.')}; this goes on once it answers.")
            answers = False
            continue
        answers = True
        last = _print_lines(page, last, plain=plain)


def _all(client: "ControlClient", after: int, wanted: EventFilter) -> Iterator[Event]:
    """Yield all events after an id, oldest first, page by page."""
    wanted = _from_the_begin(wanted)
    while True:
        page = client.events(after, PAGE, wanted)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def _from_the_begin(wanted: EventFilter) -> EventFilter:
    """Set a `since` before all events: without one, the API would return the newest events."""
    return wanted if wanted.since else dataclasses.replace(wanted, since="1970-01-01T00:00:00Z")


def _print_table(
    client: "ControlClient",
    after: int,
    wanted: EventFilter,
    limit: int,
    follow: bool,
    *,
    as_json: bool,
) -> int:
    found: Sequence[Event]
    if after:  # the user reads on, page by page
        found = list(itertools.islice(_all(client, after, wanted), limit))
        more = f"There may be more: --after {found[-1].id} goes on." if len(found) == limit else ""
    else:
        found, more = _newest(client, wanted, limit)
    shown = found if after or follow else found[::-1]
    emit(found, as_json=as_json, render=lambda: events_table(shown))
    if more and not follow:
        say(more)
    return found[-1].id if found else after


def _newest(
    client: "ControlClient", wanted: EventFilter, limit: int
) -> tuple[Sequence[Event], str]:
    """Return the newest events, oldest first, and a note on how many more there are."""
    found = client.events(0, PAGE, dataclasses.replace(wanted, newest=True))
    if len(found) == PAGE and limit >= PAGE:
        found = list(_all(client, 0, wanted))
    if len(found) <= limit:
        return found, ""
    there = f"{PAGE:,} or more" if len(found) == PAGE else f"{len(found):,}"
    more = f"The newest {limit:,} of {there}: --limit N shows more, --lines writes out all."
    return found[-limit:], more


def _print_lines(
    found: "Iterator[Event] | Sequence[Event]", last: int, *, plain: bool = False
) -> int:
    """Print each event at once; return the id of the last one."""
    for event in found:
        last = event.id
        who = f" ({event.actor})" if event.actor else ""
        if plain:
            line = f"{time_text(event.at)} {event.kind} {event.subject}: {event.message}{who}"
            out().print(line, markup=False, soft_wrap=True)
        else:
            typer.echo(json.dumps(to_jsonable(event), ensure_ascii=False))
    return last
