"""Draws an overview for `partitiond top`. Pure: the same overview gives the same text."""

import dataclasses
from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.plan.devices import Mark
from partitiond.cli.plan.words import converging_words
from partitiond.cli.tables import rate
from partitiond.cli.watch.bars import LINES_OF_DEVICE, device_lines, marks_of
from partitiond.cli.watch.state import SECTIONS, TopState, seen
from partitiond.cli.watch.tables import (
    EVENT_COLUMNS,
    HOST_COLUMN,
    JOB_COLUMNS,
    REPLICA_COLUMNS,
    model_columns,
    plain,
    table_lines,
)
from partitiond.core.events import Event
from partitiond.core.profile.jobs import JobState
from partitiond.core.views.overview import Overview

HELP: Final = """\
 s  S    sort by the next, the previous column: name, demand, tokens, ttft, queue
 /       show only what has a text in its name; Enter keeps it, Esc shows all again
 d m r   devices, models, replicas: show or hide
 j e     jobs, events: show or hide
 p       hold the figures as they are, and go on
 arrows  scroll models and replicas
 h  ?    this help
 q       leave"""
KEYS_LINE: Final = "q leave  s sort  / find  d m r j e show or hide  p hold  h help"
ACTIVE: Final = (JobState.QUEUED, JobState.RUNNING)
LEAST_LINES: Final = 4
"""Lines that each section gets, its title included, before any section gets more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Screen:
    """The size of the screen.

    Attributes:
        height: None for as many lines as there are to show.
    """

    width: int
    height: int | None = None


def draw(
    overview: Overview, events: Sequence[Event], state: TopState, screen: Screen, note: str = ""
) -> RenderableType:
    """Draw everything, cut to the screen.

    Args:
        events: the latest events, oldest first.
        note: one sentence in place of the keys, such as that the daemon does not answer.
    """
    head = head_lines(overview, screen.width)
    if state.helping:
        return Group(*head, Text(), Text(HELP), Text(), _foot(state, note))
    shown = seen(overview, state)
    marks = marks_of(overview)
    bars = [
        line
        for d in shown.devices
        for line in device_lines(
            d, overview.replicas, marks, screen.width, with_host=bool(overview.hosts)
        )
    ]
    blocks = _blocks(shown, events, state, marks, screen.width)
    if bars and "devices" not in state.hidden:
        blocks = {"devices": [Text("Devices", style="bold"), *bars], **blocks}
    if screen.height is None:
        limits = {name: len(lines) for name, lines in blocks.items()}
    else:
        fixed = len(head) + 1 + len(blocks)
        limits = share_lines(
            {name: len(lines) for name, lines in blocks.items()}, screen.height - fixed
        )
    parts: list[RenderableType] = list(head)
    for name, lines in blocks.items():
        if limits[name] >= 2:
            parts += [Text(), *_cut(name, lines, limits[name], state, screen.width)]
    if screen.height is not None:
        parts.append(_foot(state, note))
    return Group(*parts)


def share_lines(wanted: dict[str, int], lines: int) -> dict[str, int]:
    """Lines of each section: a few for each, then up to a third of the screen, then what is left.
    In each round the first sections are served first."""
    given = {name: min(count, LEAST_LINES) for name, count in wanted.items()}
    for name in reversed(wanted):  # too small a screen: the last sections lose lines first
        over = sum(given.values()) - max(0, lines)
        given[name] -= max(0, min(given[name], over))
    for most in (lines // 3, lines):
        for name, count in wanted.items():
            left = lines - sum(given.values())
            more = max(0, min(min(count, most) - given[name], left))
            if name == "devices":  # whole devices only
                more -= (given[name] + more - 1) % LINES_OF_DEVICE
            given[name] = max(0, given[name] + more)
    return given


def head_lines(overview: Overview, width: int) -> list[Text]:
    """Version, plan, totals; a line for each problem."""
    traffic = [m.traffic for m in overview.models if m.traffic is not None]
    replicas = overview.replicas
    serving = sum(r.state == "serving" for r in replicas)
    watts = [d.watts for d in overview.devices if d.watts is not None]
    first = Text(f"partitiond {overview.version}", style="bold", no_wrap=True)
    first.append(f"  {overview.at[11:19]} UTC", style="dim")
    first.append(f"  {overview.plan_id or 'no plan is applied'}", style="dim")
    if waiting := overview.waiting_plan_id:
        first.append(f"  {waiting} waits: partitiond apply {waiting}", style="yellow")
    said = [
        f"{len(overview.models)} models",
        f"{serving} of {len(replicas)} replicas serve",
        f"{rate(sum(t.req_per_s for t in traffic))} requests/s",
        f"{rate(sum(t.output_tokens_per_s for t in traffic))} tokens/s",
        f"{sum(t.in_flight for t in traffic)} in flight",
        f"{sum(t.waiting for t in traffic)} waiting",
    ]
    if overview.hosts:
        said.insert(0, f"{len(overview.hosts)} hosts")
    if watts:
        said.append(f"{sum(watts):.0f} W")
    lines = [first, Text(", ".join(said), no_wrap=True)]
    lines += [
        Text(plain(f"{part}: {what}"), style="red", no_wrap=True)
        for part, what in overview.problems
    ]
    lines += [Text(plain(h.note), style="red", no_wrap=True) for h in overview.hosts if h.note]
    if words := converging_words(overview.convergence):
        lines.append(Text(plain(words), style="yellow", no_wrap=True))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _foot(state: TopState, note: str) -> Text:
    if state.typing:
        return Text(f"find: {state.find}▏  Enter keeps, Esc drops", style="reverse")
    said = [f"sorted by {state.sort}"]
    said += [f"only {state.find!r}"] if state.find else []
    said += ["held"] if state.paused else []
    if note:
        return Text(note, style="red", no_wrap=True, overflow="ellipsis")
    return Text(f"{', '.join(said)}   {KEYS_LINE}", style="dim", no_wrap=True, overflow="ellipsis")


def _blocks(
    shown: Overview,
    events: Sequence[Event],
    state: TopState,
    marks: dict[str, Mark],
    width: int,
) -> dict[str, list[Text]]:
    """The lines of each table that is shown and has rows; its titles come first."""
    found: dict[str, list[Text]] = {}
    host = (HOST_COLUMN,) if shown.hosts else ()
    replica_columns = (*REPLICA_COLUMNS[:2], *host, *REPLICA_COLUMNS[2:])
    found["models"] = table_lines(model_columns(marks), shown.models, width)
    found["replicas"] = table_lines(replica_columns, shown.replicas, width)
    jobs = sorted(shown.jobs, key=lambda job: job.state not in ACTIVE)  # then newest first
    found["jobs"] = table_lines(JOB_COLUMNS, jobs[:5], width)
    word = state.find.casefold()
    last = [e for e in events if word in f"{e.kind} {e.subject} {e.message}".casefold()]
    found["events"] = table_lines(EVENT_COLUMNS, last[::-1], width)
    return {name: found[name] for name in SECTIONS[1:] if found[name] and name not in state.hidden}


def _cut(name: str, lines: Sequence[Text], limit: int, state: TopState, width: int) -> list[Text]:
    """The title with the number of omitted lines, and the lines that fit from the offset on."""
    body = lines[1:]
    room = limit - 1
    if len(body) <= room:
        return list(lines)
    step = LINES_OF_DEVICE if name == "devices" else 1
    moves = name in {"models", "replicas"}
    offset = min(state.offset if moves else 0, len(body) - room)
    left = (len(body) - room) // step
    title, more = lines[0].copy(), f"  +{left} more"
    title.truncate(max(0, width - len(more)))
    title.append(more, style="yellow")
    return [title, *body[offset : offset + room]]
