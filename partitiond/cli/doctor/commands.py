"""Implements `partitiond doctor`: reports what works here, what does not, and what to do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import RenderableType

from partitiond.cli.columns import new_table
from partitiond.cli.daemon import lock_is_held
from partitiond.cli.doctor import checks
from partitiond.cli.doctor.findings import CheckVerdict, DoctorFinding, fail, ok
from partitiond.cli.doctor.fixes import fix, fixable
from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import emit, print_json, say
from partitiond.cli.tables import state_text
from partitiond.core.errors import SettingsError

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


@spread
def doctor(
    ctx: typer.Context,
    *,
    fix: bool = option("Remove leftovers of ours that are safe to remove, after showing them."),
    as_json: JsonOption = False,
) -> None:
    """Check what partitiond needs here, and say what to do.

    Ends with 0 when it can work (warnings included) and with 1 when something must be put right.
    With --fix it also removes what earlier runs left: run folders, engines of jobs that are gone,
    control daemons without clients. It changes nothing that is not ours, and ends nothing that
    serves.
    """
    settings, findings = _findings(ctx)
    done: list[str] = []
    if fix and settings is not None:
        done = _fixed(settings, findings)
        settings, findings = _findings(ctx)
    if fix and as_json:
        print_json({"done": done, "findings": findings})
    else:
        emit(findings, as_json=as_json, render=lambda: _table(findings))
    failed = any(finding.verdict is CheckVerdict.FAIL for finding in findings)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def _findings(ctx: typer.Context) -> "tuple[Settings | None, Sequence[DoctorFinding]]":
    """Return all findings. Unreadable settings are one; then nothing else can be checked."""
    try:
        settings = settings_of(ctx)
    except SettingsError as error:
        advice = error.hint.rstrip(".")
        return None, [checks.check_python(), fail("settings", error.message, advice)]
    valid = ok("settings", "valid; `partitiond setup config show` lists them")
    held = lock_is_held(settings.lock_path)
    return settings, [valid, *checks.examine(settings, daemon_runs=held)]


def _fixed(settings: "Settings", findings: Sequence[DoctorFinding]) -> list[str]:
    """Show what would be done, do it, and report what was done."""
    wanted = fixable(findings)
    if not wanted:
        say("Nothing of ours is left over.")
        return []
    for finding in wanted:
        say(f"{finding.check}: {finding.message}\n  will {finding.fix}")
    done = fix(settings)
    for text in done:
        say(f"  {text}")
    return done


def _table(findings: Sequence[DoctorFinding]) -> RenderableType:
    table = new_table("check", "", "found")
    for finding in findings:
        text = finding.message
        if finding.advice:
            text += f"\n-> {finding.advice}"
        if finding.command:
            text += f"\n   $ {finding.command}"
        table.add_row(finding.check, state_text(finding.verdict.value), text)
    return table
