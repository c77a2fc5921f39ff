"""Draws what keys used of models."""

from typing import TYPE_CHECKING

from rich.console import RenderableType

from partitiond.cli.columns import Column, table_of
from partitiond.cli.options import moment
from partitiond.cli.output import emit
from partitiond.core.errors import InputError
from partitiond.core.views.usage import UsageBy, UsageReport

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


def show_usage(client: "ControlClient", since: str, until: str, by: str, *, as_json: bool) -> None:
    """Print what keys used. Raises InputError: a moment is none, or lines are for none of these."""
    words = [word.strip() for word in by.split(",") if word.strip()]
    if unknown := [word for word in words if word not in [*UsageBy]]:
        raise InputError(f"--by {unknown[0]!r} is none of {', '.join(UsageBy)}.")
    report = client.usage(
        moment(since, "--since") or None,
        moment(until, "--until") or None,
        words,
    )
    emit(report, as_json=as_json, render=lambda: _table(report))


def _table(report: UsageReport) -> RenderableType:
    if not report.lines:
        return f"Nothing was used from {report.first_hour} to {report.last_hour} (UTC)."
    asked = {by.value for by in report.by}
    return table_of(
        report.lines,
        *(
            Column(f"{name} (UTC)", lambda line: line.period, shown=name in asked)
            for name in ("hour", "day", "month")
        ),
        Column(
            "key",
            lambda line: f"{line.key_id} {line.label}".strip() or "(no key)",
            shown="key" in asked,
        ),
        Column("model", lambda line: line.model, shown="model" in asked),
        Column(">requests", lambda line: f"{line.requests:,}"),
        Column(">failed", lambda line: f"{line.failed:,}"),
        Column(">prompt tokens", lambda line: f"{line.prompt_tokens:,}"),
        Column(">output tokens", lambda line: f"{line.output_tokens:,}"),
    )
