"""Draws the tables of `partitiond top`: a line per row, fewer columns on a narrow screen."""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from rich.text import Text

from partitiond.cli.columns import Column
from partitiond.cli.plan.devices import Mark
from partitiond.cli.tables import duration, partition_text, rate, state_text
from partitiond.core.demand.traffic import ModelTraffic
from partitiond.core.events import Event
from partitiond.core.hardware.kinds import short_device
from partitiond.core.profile.jobs import Job, JobState, job_place
from partitiond.core.views.overview import ModelOverview, ReplicaOverview

Row = TypeVar("Row")
GAP: Final = 2
"""Columns between two columns of a table."""
_NO_CHARACTER: Final = re.compile(r"(?:\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x20\x7f-\x9f])+")
"""ANSI sequences (mostly colours), line ends, other control characters, and runs of spaces."""


def table_lines(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int) -> list[Text]:
    """The titles, and a line for each row; nothing if there are no rows."""
    if not rows:
        return []
    cells = {column: [_text(column.value(row)) for row in rows] for column in columns}
    widths = {
        column: min(column.most, max([len(column.heading), *(text.cell_len for text in made)]))
        for column, made in cells.items()
    }
    kept = list(columns)
    while _whole(widths, kept) > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    titles = [Text(column.heading, style="bold") for column in kept]
    lines = [titles, *([cells[column][n] for column in kept] for n in range(len(rows)))]
    return [_line(kept, widths, line, width) for line in lines]


def _whole(widths: dict[Column[Row], int], kept: Sequence[Column[Row]]) -> int:
    return sum(widths[column] for column in kept) + GAP * (len(kept) - 1)


def _line(
    kept: Sequence[Column[Row]],
    widths: dict[Column[Row], int],
    cells: Sequence[Text],
    width: int,
) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for column, cell in zip(kept, cells, strict=True):
        text = cell.copy()
        text.truncate(widths[column], overflow="ellipsis")
        space = " " * (widths[column] - text.cell_len)
        gap = " " * GAP if line else ""
        line.append(gap + (space if column.right else ""))
        line.append_text(text)
        line.append("" if column.right else space)
    line.rstrip()
    line.truncate(width, overflow="ellipsis")
    return line


def plain(text: str) -> str:
    """The text on one line and without terminal commands, because the last output of an engine
    may have line ends and commands."""
    return _NO_CHARACTER.sub(" ", text).strip()


def _text(value: str | Text) -> Text:
    return value if isinstance(value, Text) else Text(plain(value))


def _of(cell: Callable[[ModelTraffic], str]) -> Callable[[ModelOverview], str]:
    """A cell of a model's traffic; a dash if the traffic is not known."""
    return lambda m: "-" if m.traffic is None else cell(m.traffic)


def model_columns(marks: dict[str, Mark]) -> tuple[Column[ModelOverview], ...]:
    """Columns for the demand and traffic of models. The letters are those of the bars."""
    return (
        Column("", lambda m: Text(marks[m.name].letter, style=f"bold {marks[m.name].colour}")),
        Column("model", lambda m: m.name, right=False),
        Column("state", lambda m: state_text(m.availability), right=False),
        Column("serve", lambda m: f"{m.replicas_serving}/{m.replicas_planned}", 3),
        Column("req/s", _of(lambda t: rate(t.req_per_s))),
        Column("wanted", lambda m: rate(m.demand_req_per_s), 5),
        Column("forecast", lambda m: rate(m.forecast_req_per_s), 9),
        Column("room", lambda m: rate(m.capacity_req_per_s), 6),
        Column("tokens/s", _of(lambda t: rate(t.output_tokens_per_s)), 4),
        Column("TTFT p95", _of(lambda t: duration(t.ttft_p95_seconds)), 1),
        Column("queue p95", _of(lambda t: duration(t.queue_p95_seconds)), 7),
        Column("in flight", _of(lambda t: str(t.in_flight)), 8),
        Column("waiting", _of(lambda t: str(t.waiting)), 2),
        Column("refused", _refused, 3),
        Column("W", lambda m: "-" if m.joules_per_s is None else f"{m.joules_per_s:.0f}", 10),
        Column("note", lambda m: m.note, 11, right=False, most=60),
    )  # fmt: skip


def _refused(model: ModelOverview) -> Text:
    traffic = model.traffic
    if traffic is None:
        return Text("-")
    bad = traffic.refused + traffic.failed + traffic.turned_away
    return Text(str(bad), style="red" if traffic.failed else "yellow" if bad else "")


def _use(replica: ReplicaOverview) -> str:
    return f"{'-' if replica.in_flight is None else replica.in_flight}/{replica.limit}"


def _measured(replica: ReplicaOverview, planned: float) -> str:
    seen = replica.measured
    return f"{rate(seen.output_tokens_per_s if seen else None)} of {rate(planned)}"


def _tpot(replica: ReplicaOverview) -> str:
    seen = replica.measured
    now = duration(seen.tpot_seconds if seen else None)
    return f"{now} of {duration(replica.planned_tpot_p95_seconds)}"


HOST_COLUMN: Final[Column[ReplicaOverview]] = Column(
    "host", lambda r: r.host or "-", 3, right=False, most=24
)
"""Shown after the state if there are several hosts."""
REPLICA_COLUMNS: Final[tuple[Column[ReplicaOverview], ...]] = (
    Column("engine", lambda r: r.engine, right=False),
    Column("state", lambda r: state_text(r.state), right=False),
    Column("device", lambda r: short_device(r.device_id), 3, right=False),
    Column("partition", lambda r: partition_text(r.partition), 4, right=False),
    Column("in use", _use),
    Column("req/s", lambda r: rate(r.measured.req_per_s if r.measured else None), 2),
    Column("tokens/s planned", lambda r: _measured(r, r.planned_output_tokens_per_s), 1),
    Column("TPOT p95 planned", _tpot, 5),
    Column("GiB", lambda r: f"{r.memory_bytes / 2**30:.3g}", 6),
    Column("drift", lambda r: Text(plain(r.drift), style="yellow"), 7, right=False, most=60),
)


def _where(job: Job) -> str:
    """The device of a running or ended job; none for a queued job, which may move to another."""
    return "-" if job.state is JobState.QUEUED else job_place(job) or "-"


JOB_COLUMNS: Final[tuple[Column[Job], ...]] = (
    Column("job", lambda j: j.id, right=False),
    Column("kind", lambda j: j.kind, 2, right=False),
    Column("model", lambda j: j.subject, right=False),
    Column("state", lambda j: state_text(j.state.value), right=False),
    Column("done", lambda j: "-" if j.progress.fraction is None else f"{j.progress.fraction:.0%}"),
    Column("device", _where, 3, right=False),
    Column("now", lambda j: j.error or j.progress.message or j.reason, 1, right=False, most=60),
)

EVENT_COLUMNS: Final[tuple[Column[Event], ...]] = (
    Column("event", lambda e: e.at[11:19], right=False),
    Column("kind", lambda e: e.kind, right=False),
    Column("subject", lambda e: short_device(e.subject), right=False, most=24),
    Column("by", lambda e: e.actor, 2, right=False, most=16),
    Column("what", lambda e: e.message, right=False, most=200),
)
