"""Implements `partitiond doctor`: reports what works here, what does not, and what to do."""

from collections.abc import Sequence

import typer
from rich.console import RenderableType

from partitiond.cli.columns import Column, table_of
from partitiond.cli.doctor import checks
from partitiond.cli.doctor.findings import CheckVerdict, DoctorFinding, fail, ok
from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, settings_of
from partitiond.cli.output import PIPE_WIDTH, emit, out
from partitiond.cli.starting import lock_is_held
from partitiond.cli.tables import state_text
from partitiond.core.errors import SettingsError


def doctor(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Check what partitiond needs here, and say what to do.

    Ends with 0 when it can work (warnings included) and with 1 when something must be put right.
    It changes nothing.
    """
    findings = _findings(ctx)
    emit(findings, as_json=as_json, render=lambda: _table(findings))
    failed = any(finding.verdict is CheckVerdict.FAIL for finding in findings)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def _findings(ctx: typer.Context) -> Sequence[DoctorFinding]:
    """Return all findings. Unreadable settings are one; then nothing else can be checked."""
    try:
        settings = settings_of(ctx)
    except SettingsError as error:
        advice = error.hint.rstrip(".")
        return [fail("settings", error.message, advice)]
    valid = ok("settings", "valid; `partitiond setup config show` lists them")
    held = lock_is_held(settings.lock_path)
    return [valid, *checks.examine(settings, daemon_runs=held)]


def _table(findings: Sequence[DoctorFinding]) -> RenderableType:
    new_line = " " if out().width == PIPE_WIDTH else "\n"

    def told(finding: DoctorFinding) -> str:
        advice = f"{new_line}-> {finding.advice}" if finding.advice else ""
        command = f"{new_line}   $ {finding.command}" if finding.command else ""
        return finding.message + advice + command

    return table_of(
        findings,
        Column("check", lambda finding: finding.check),
        Column("", lambda finding: state_text(finding.verdict.value)),
        Column("found", told),
    )
