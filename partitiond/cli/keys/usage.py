"""Implements `partitiond keys usage`: reports what keys used of models, for charge-back."""

import csv
import dataclasses
import io
import sys

import typer
from rich.console import RenderableType

from partitiond.cli.columns import new_table
from partitiond.cli.options import JsonOption, client_of, moment, option, spread
from partitiond.cli.output import emit
from partitiond.core.errors import InputError
from partitiond.core.views.usage import UsageLine, UsageReport


@spread
def usage(
    ctx: typer.Context,
    *,
    since: str = option(
        "From then on: a time (2030-01-31, UTC), or so long ago (7d). "
        "Default: the start of this month.",
        default="",
        metavar="WHEN",
    ),
    until: str = option(
        "Until then, that hour, or that day where no time is given, included. Default: now.",
        default="",
        metavar="WHEN",
    ),
    by: str = option(
        "What a line is for: key, model, and one of hour, day and month.",
        default="key,model",
        metavar="WHAT",
    ),
    as_csv: bool = option("Print comma-separated values with a header.", "--csv"),
    as_json: JsonOption = False,
) -> None:
    """Show what each key used of each model, for charge-back.

    Requests, tokens, device time and energy. Hours are whole ones, in UTC. Device time is what
    engines were busy, times their share of the device: idle time is nobody's.
    """
    if as_csv and as_json:
        raise InputError("--csv and --json exclude each other.", hint="Give one of them.")
    with client_of(ctx) as client:
        report = client.usage(
            moment(since, "--since") or None,
            moment(until, "--until") or None,
            [word.strip() for word in by.split(",") if word.strip()],
        )
    if as_csv:
        sys.stdout.write(csv_of(report))
        return
    emit(report, as_json=as_json, render=lambda: _table(report))


def csv_of(report: UsageReport) -> str:
    """Return every field of every line as CSV, with a header."""
    names = [field.name for field in dataclasses.fields(UsageLine)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(getattr(line, name)) for name in names] for line in report.lines)
    return text.getvalue()


def _plain(value: object) -> object:
    """Quote a label that a spreadsheet would take for a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return value


def _table(report: UsageReport) -> RenderableType:
    if not report.lines:
        return f"Nothing was used from {report.first_hour} to {report.last_hour} (UTC)."
    asked = {by.value for by in report.by}
    shown = [name for name in ("key", "model") if name in asked]
    periods = [name for name in ("hour", "day", "month") if name in asked]
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
