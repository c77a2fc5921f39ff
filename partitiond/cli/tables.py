"""Draws tables of models, replicas, jobs and events for people, to fit 80 columns."""

import collections
from collections.abc import Sequence
from typing import Final, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.columns import Column, table_of, time_text
from partitiond.core.events import Event
from partitiond.core.hardware.kinds import short_device
from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare, Partition
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.page import first_of
from partitiond.core.profile.jobs import Job, JobState, job_place, measured_by
from partitiond.core.units import format_bytes, format_duration
from partitiond.core.views.lists import ModelView, ReplicaView

T = TypeVar("T")

STATE_STYLES = {
    "serving": "green",
    "succeeded": "green",
    "ok": "green",
    "starting": "yellow",
    "pending": "yellow",
    "queued": "yellow",
    "running": "yellow",
    "drowsy": "yellow",
    "falling-asleep": "yellow",
    "asleep": "cyan",
    "scaled to zero": "cyan",
    "waking": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "failing": "red",
    "warn": "yellow",
    "failed": "red",
    "unavailable": "red",
    "fail": "red",
}

MANY_ROWS: Final = 50
"""Most rows of a table that is printed whole, since a page has about as many lines."""
PAGE_ROWS: Final = 20
"""Rows shown of a longer table that stands alone."""
HALF_PAGE_ROWS: Final = 12
"""Rows shown of a longer table that another one stands below."""


def state_text(state: str) -> Text:
    """A state word in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def duration(seconds: float | None) -> str:
    """Milliseconds below one second, else seconds; a dash if unknown."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def rate(value: float | None) -> str:
    """Requests or tokens per second with three digits; a dash if unknown."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def core_list(cores: Sequence[int]) -> str:
    """Core indexes as ranges: "0-3,8"."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def partition_text(partition: Partition) -> str:
    """A partition in a few words."""
    match partition:
        case CpuCores(cores=cores):
            return f"core{'s' if len(cores) > 1 else ''} {core_list(cores)}"
        case MpsShare(sm_percent=percent):
            return f"MPS {percent} %"
        case MigSlice(mig_profile=name, slice_start=start):
            return f"MIG {name}@{start}"
        case _:
            return partition.mode.value


def page_of_rows(items: Sequence[T], unusual: Sequence[bool], page: int | None) -> Sequence[T]:
    """All items, or `page` of them if they are more than a page; unusual ones come first."""
    few = page is None or len(items) <= MANY_ROWS
    return items if few or page is None else first_of(items, unusual, page)


def with_left(
    table: RenderableType, shown: Sequence[object], states: Sequence[str]
) -> RenderableType:
    """A table, and below it the number of rows left out, and the number of all by state.

    Args:
        table: the table.
        shown: the items in the table.
        states: the state of every item, as one word.
    """
    left = len(states) - len(shown)
    if not left:
        return table
    counts = collections.Counter(states).most_common()
    words = ", ".join(f"{count} {state}" for state, count in counts)
    return Group(table, Text(f"... and {left} more (--all); of {len(states)} {words}"))


def models_table(models: Sequence[ModelView], page: int | None = None) -> RenderableType:
    """Registered models; what to do next if there is none.

    Args:
        models: all of them.
        page: most rows if there are very many models; those that need attention come first.
    """
    if not models:
        return "No models yet. Add one: partitiond models add smollm2-135m"
    unusual = [
        not _is_fine(m.availability) or m.replicas_serving < m.replicas_planned or bool(m.note)
        for m in models
    ]
    shown = page_of_rows(models, unusual, page)
    table = table_of(
        shown,
        Column("model", lambda m: m.record.spec.name, whole=True),
        Column("state", lambda m: state_text(m.availability)),
        Column(">replicas", lambda m: f"{m.replicas_serving}/{m.replicas_planned}"),
        Column("profile", _profile_word),
        Column(">workload", lambda m: m.record.spec.workload.key),
        Column(">demand", _demand),
    )
    noted = with_notes(
        table,
        [(view.record.spec.name, text) for view in shown for text in (view.note, view.warning)],
    )
    return with_left(noted, shown, [view.availability for view in models])


def _is_fine(state: str) -> bool:
    return STATE_STYLES.get(state) in ("green", "cyan")  # cyan: it is idle as intended


def _demand(view: ModelView) -> str:
    demand = view.record.spec.demand.req_per_s
    return "all" if demand is None else f"{rate(demand)}/s"


def _profile_word(view: ModelView) -> str:
    kind = view.profile_kind.value if view.profile_kind else "none"
    return f"{kind} (provisional)" if view.provisional else kind


def replicas_table(
    replicas: Sequence[ReplicaView], page: int | None = None, *, several: bool = False
) -> RenderableType:
    """Engines, including pending ones; a failed engine shows its diagnosis.

    Args:
        replicas: all of them.
        page: most rows if there are very many: engines that do not serve, then the fullest.
        several: whether there are several hosts; then the host of each is shown.
    """
    if not replicas:
        return "No replicas. Plan and start some: partitiond plan, partitiond apply"
    if page is not None and len(replicas) > MANY_ROWS:
        full = sorted(replicas, key=lambda r: -(r.in_flight or 0) / max(1, r.limit))
        odd = [not _is_fine(r.state) or bool(r.last_error) for r in full]
        shown: Sequence[ReplicaView] = first_of(full, odd, page)
    else:
        shown = replicas
    table = table_of(
        shown,
        Column("engine", lambda r: r.engine, whole=True),
        Column("state", lambda r: state_text(r.state)),
        Column("host", lambda r: r.host or "-", shown=several),
        Column("device", lambda r: short_device(r.device_id), whole=True),
        Column("partition", lambda r: partition_text(r.partition)),
        Column(">in use", lambda r: f"{'?' if r.in_flight is None else r.in_flight}/{r.limit}"),
        Column(
            ">memory",
            lambda r: format_bytes(r.held_bytes if r.state == "asleep" else r.memory_bytes),
        ),
        Column(">pid", lambda r: "-" if r.pid is None else str(r.pid)),
        Column("", replica_note, shown=any(map(replica_note, shown))),
    )
    errors = [(view.engine, view.last_error) for view in shown]
    return with_left(with_notes(table, errors), shown, [view.state for view in replicas])


def with_notes(table: Table, notes: Sequence[tuple[str, str]]) -> RenderableType:
    """A table, and below it the notes on its rows; a note on several rows stands there once.

    Args:
        table: the table.
        notes: pairs of a subject and a note, which may be empty.
    """
    about = by_key((note, subject) for subject, note in notes if note)
    lines = [Text(f"{', '.join(subjects)}: {note}") for note, subjects in about.items()]
    return Group(table, *lines, Text()) if lines else table


def replica_note(view: ReplicaView) -> str:
    """A few words on the replica's condition, or empty; its error stands below the table."""
    if view.state in ("pending", "starting"):
        return view.start_progress
    if view.sleep_level:
        return f"level {view.sleep_level}; takes {format_bytes(view.memory_bytes)} awake"
    notes = (f"variant {view.variant}" if view.variant else "", "adopted" if view.adopted else "")
    return ", ".join(note for note in notes if note)


def jobs_table(jobs: Sequence[Job]) -> RenderableType:
    """Jobs, newest first."""
    if not jobs:
        return "No jobs."
    return table_of(
        jobs,
        Column("job", lambda job: job.id, whole=True),
        Column("model", lambda job: job.subject),
        Column("measures", measured_by),
        Column("state", lambda job: state_text(job.state.value)),
        Column(">done", lambda job: _share(job.progress.fraction)),
        Column("now", lambda job: job.error or job_line(job)),
    )


def _share(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.0%}"


def job_line(job: Job) -> str:
    """Device, host, phase, message and time left in one line."""
    progress = job.progress
    where = job_place(job) if job.state is JobState.RUNNING else ""
    text = ": ".join(part for part in (where, progress.phase, progress.message) if part)
    if progress.seconds_left is not None and progress.seconds_left > 0:
        text += f" ({format_duration(progress.seconds_left)} left)"
    return text


def events_table(events: Sequence[Event]) -> RenderableType:
    """Events, oldest first."""
    if not events:
        return "No events."
    return table_of(
        events,
        Column(">id", lambda event: str(event.id), whole=True),
        Column("at", lambda event: time_text(event.at), whole=True),
        Column("kind", lambda event: event.kind),
        Column("about", lambda event: short_device(event.subject)),
        Column("what happened", lambda event: event.message),
        Column("who", lambda event: event.actor),
    )
