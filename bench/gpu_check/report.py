"""Renders the report in Markdown and HTML: results beside the paper's, and unreached trials."""

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.gpu_check import paper
from bench.gpu_check.ledger import Ledger
from bench.gpu_check.schedule import Entry, State, Trial


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One part of the report.

    Attributes:
        rows: a table; columns in the order they first appear.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def tables(self) -> list[list[Mapping[str, Any]]]:
        """The rows by the name of their first column, which differs between a step's trials."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(next(iter(row), ""), []).append(row)
        return list(found.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Facts about one run, for the head of the report."""

    began: str
    budget_seconds: float
    used_seconds: float
    tried: tuple[str, ...]


def sections(
    ledger: Ledger | None,
    steps: Sequence[tuple[int, str, Sequence[Trial]]],
    not_reached: Mapping[str, str],
    run: Run,
    *,
    headline: str = "",
) -> list[Section]:
    """The report's parts, in order.

    Args:
        ledger: results; None if there is no device to measure.
        steps: number, title and trials of each.
        not_reached: reason by trial.
        headline: the first sentence, such as that there is no GPU.
    """
    parts = [_head(ledger, run, headline), _overview(ledger, steps, not_reached)]
    if ledger is not None:
        for number, title, trials in steps:
            part = _step(ledger, number, title, trials)
            if part.rows or part.paragraphs:
                parts.append(part)
    parts.append(_not_reached(not_reached))
    return parts


def _head(ledger: Ledger | None, run: Run, headline: str) -> Section:
    said = [headline] if headline else []
    if ledger is not None:
        subject = ledger.subject
        said.append(f"{subject.hardware}, {subject.engine}, scale {subject.scale}.")
        if subject.scale == "fake":
            said.append("Nothing here was measured: the GPU and its engines are simulated.")
        said.append(f"{ledger.spent_seconds:.0f} s of trials in all runs together.")
    tried = ", ".join(run.tried) or "none"
    said.append(
        f"Last run: {run.began}, {run.used_seconds:.0f} of {run.budget_seconds:g} s; "
        f"trials: {tried}."
    )
    said.append(
        "Words and figures are as in docs/reference/definitions.md: throughput is output tokens "
        "received inside a window by its seconds; half widths are 95 % by batch means. Weights "
        f"are dummy values of the true architecture. The paper: {paper.CITATION}."
    )
    return Section("GPU check", tuple(said))


def _overview(
    ledger: Ledger | None,
    steps: Sequence[tuple[int, str, Sequence[Trial]]],
    not_reached: Mapping[str, str],
) -> Section:
    """The steps that were asked for, or have results."""
    known = {} if ledger is None else {name: entry.state for name, entry in ledger.entries.items()}
    rows = []
    for number, title, trials in steps:
        asked = [trial.id for trial in trials if trial.id in known or trial.id in not_reached]
        done = sum(known.get(name) in {State.DONE, State.IMPOSSIBLE} for name in asked)
        if asked:
            rows.append({"step": number, "what": title, "trials done": f"{done} of {len(asked)}"})
    return Section("Steps", rows=tuple(rows))


def _step(ledger: Ledger, number: int, title: str, trials: Sequence[Trial]) -> Section:
    rows: list[Mapping[str, Any]] = []
    said: list[str] = []
    for trial in trials:
        entry = ledger.entries.get(trial.id)
        if entry is None:
            continue
        rows += entry.data.get("rows", [])
        said += entry.data.get("notes", [])
        if entry.state is not State.DONE:
            said.append(f"{trial.id}: {_trouble(entry)}")
    beside = paper.STATEMENTS.get(number)
    if beside and rows:
        said.append(f"Paper: {beside}")
    return Section(f"{number}. {title}", tuple(dict.fromkeys(said)), tuple(rows))


def _trouble(entry: Entry) -> str:
    return f"{entry.state}: {entry.error.splitlines()[0] if entry.error else 'no reason'}"


def _not_reached(not_reached: Mapping[str, str]) -> Section:
    rows = tuple({"trial": trial, "why": why} for trial, why in not_reached.items())
    said = () if rows else ("Everything was reached.",)
    return Section("Not reached", said, rows)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of a table, in the order they first appear; those without any value are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def cell(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.1f}"
    return str(value)


def markdown(parts: Sequence[Section]) -> str:
    """The report as Markdown."""
    lines: list[str] = []
    for depth, part in enumerate(parts):
        lines += [f"{'#' if depth == 0 else '##'} {part.title}", ""]
        for text in part.paragraphs:
            lines += [text, ""]
        for table in part.tables:
            names = columns(table)
            lines += [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
            for row in table:
                cells = (cell(row.get(name)).replace("|", "\\|") for name in names)
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}"
    "td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left;white-space:nowrap}"
)


def page(parts: Sequence[Section]) -> str:
    """The report as one HTML file."""
    body: list[str] = []
    for depth, part in enumerate(parts):
        body.append(_tag(f"h{1 + (depth > 0)}", html.escape(part.title)))
        body += [_tag("p", html.escape(text)) for text in part.paragraphs]
        for table in part.tables:
            names = columns(table)
            rows = [_cells("th", names), *(_cells("td", map(row.get, names)) for row in table)]
            body.append(_tag("table", "".join(rows)))
    head = f'<!DOCTYPE html><meta charset="utf-8"><title>GPU check</title><style>{_STYLE}</style>'
    return "\n".join((head, *body)) + "\n"


def _cells(tag: str, values: Iterable[Any]) -> str:
    return _tag("tr", "".join(_tag(tag, html.escape(cell(value))) for value in values))


def _tag(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name}>"
