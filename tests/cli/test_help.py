"""Help exists for every command, is quick, and is readable at 80 columns."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from partitiond import __version__
from partitiond.cli.main import app
from partitiond.core.plan.objectives import BUYS
from partitiond.core.plan.record import Objective
from partitiond.settings.schema import Settings
from tests.cli.conftest import Cli

FOREGROUND = (("serve",), ("host", "join"), ("host", "ray"))
"""Commands that run until a signal; they have nothing to print as JSON."""
HEAVY = ("pydantic", "fastapi", "ortools", "httpx", "sqlmodel", "rich", "matplotlib", "psutil")


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


def test_every_command_explains_itself_in_80_columns_and_speaks_json(cli: Cli) -> None:
    """Its first sentence is what the table of commands holds, and fits the overview of its group.

    What runs until a signal has nothing to print as JSON.
    """
    faults, overviews = [], {}
    for path, command in commands(typer.main.get_command(app)):
        words, shown = " ".join(path), cli(*path, "--help")
        if path[:-1] not in overviews:
            overviews[path[:-1]] = cli(*path[:-1], "--help").out.splitlines()
        lines = [line for line in overviews[path[:-1]] if line.split()[:1] == [path[-1]]]
        first = " ".join(command.help.partition("\n\n")[0].split())
        for fault, wrong in {
            "no usage": shown.code != 0 or f"Usage: partitiond {words}" not in shown.out,
            "too wide": max(map(len, shown.out.splitlines())) > 80,
            "JSON": ("--json" in shown.out) == (path in FOREGROUND),
            "cut in the overview": path != ("version",) and lines[0].endswith("..."),
            "another sentence in the table": not first.startswith(command.get_short_help_str()),
        }.items():
            if wrong:
                faults.append(f"{words}: {fault}")
    assert not faults
    assert len(overviews) > 5


def test_no_command_shows_the_overview(cli: Cli) -> None:
    result = cli()
    assert "Start:" in result.out + result.err


def test_the_help_of_plan_says_what_each_objective_buys_and_which_to_take(cli: Cli) -> None:
    shown = "".join(cli("plan --help").out.split())  # lines are broken at hyphens as well
    told = [f"{objective.value}: {BUYS[objective]}" for objective in Objective]
    for words in (*told, "Take min-devices first", "min-devices where it is not set"):
        assert "".join(words.split()) in shown
    assert Settings().planner.objective is Objective.MIN_DEVICES


def test_rare_options_are_not_on_the_first_screen(cli: Cli) -> None:
    assert "--paper-requests" not in cli("profile --help").out


def test_the_overview_is_quick_it_loads_nothing_heavy_and_no_command() -> None:
    """The time itself would depend on the machine."""
    code = (
        "import sys; from partitiond.cli.main import app; app(['--help'], standalone_mode=False); "
        "print([m for m in sys.modules if m.startswith('partitiond.cli.') and m.count('.') > 2], "
        f"[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


def test_version(cli: Cli) -> None:
    assert __version__ in cli("--version").out
    assert cli("version --json").json["partitiond"] == __version__
