"""Draws what keys used of models, for charge-back."""

from typing import TYPE_CHECKING

from rich.console import RenderableType

from partitiond.cli.columns import new_table
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
    shown = [name for name in ("key", "model") if name in asked]
    periods = [f"{name} (UTC)" for name in ("hour", "day", "month") if name in asked]
    table = new_table(
        *periods, *shown, "requests", "failed", "prompt tokens", "output tokens", "device time",
        "kWh",
    )  # fmt: skip
    for line in report.lines:
        key = f"{line.key_id} {line.label}".strip() or "(no key)"
        words = {"key": key, "model": line.model}
        table.add_row(
            *[line.period for _ in periods],
            *[words[name] for name in shown],
            f"{line.requests:,}",
            f"{line.failed:,}",
            f"{line.prompt_tokens:,}",
            f"{line.output_tokens:,}",
            f"{line.device_seconds / 3600:.2f} h"
            if line.device_seconds >= 360
            else f"{line.device_seconds:.1f} s",
            f"{line.kilowatt_hours:.3f}",
        )
    return table
