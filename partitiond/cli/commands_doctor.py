"""`partitiond doctor`: what works here, what does not, and what to do about it."""

from typing import TYPE_CHECKING

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, settings_of
from partitiond.cli.output import emit
from partitiond.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from partitiond.cli.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Check what partitiond needs here, and say what to do.

    Ends with 0 when it can work (warnings included) and with 1 when something must be put right.
    """
    from partitiond.cli.doctor import Verdict

    findings = _findings(ctx)
    emit(findings, as_json=as_json, render=lambda: _table(findings))
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def _findings(ctx: typer.Context) -> "Sequence[Finding]":
    """All findings; settings that cannot be read are one, because nothing else can be checked."""
    from partitiond.cli import doctor as checks
    from partitiond.cli.commands_daemon import lock_is_held

    try:
        settings = settings_of(ctx)
    except SettingsError as error:
        advice = error.hint.rstrip(".")
        return [checks.check_python(), checks.fail("settings", error.message, advice)]
    valid = checks.ok("settings", "valid; `partitiond config show` lists them")
    return [valid, *checks.examine(settings, daemon_runs=lock_is_held(settings.lock_path))]


def _table(findings: "Sequence[Finding]") -> "RenderableType":
    from partitiond.cli.render import new_table, state_text

    table = new_table("check", "", "found")
    for finding in findings:
        text = finding.message
        if finding.advice:
            text += f"\n-> {finding.advice}"
        table.add_row(finding.check, state_text(finding.verdict.value), text)
    return table
