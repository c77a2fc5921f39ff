"""Help exists for every command, is quick, and is readable at 80 columns."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from partitiond.cli.main import app
from partitiond.core.plan.objectives import BUYS
from partitiond.core.plan.record import Objective
from partitiond.settings.schema import Settings
from tests.cli.conftest import Cli

FOREGROUND = (("serve",), ("host", "join"), ("host", "ray"))
"""Commands that run until a signal; they have nothing to print as JSON."""
HEAVY = ("pydantic", "fastapi", "ortools", "httpx", "sqlmodel", "rich", "matplotlib", "psutil")


def paths(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from paths(command, (*above, name))
        else:
            yield (*above, name)


COMMANDS = list(paths(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(cli: Cli, path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")

    assert result.code == 0
    assert "Usage: partitiond " + " ".join(path) in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 80


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_that_ends_by_itself_speaks_json(cli: Cli, path: tuple[str, ...]) -> None:
    assert ("--json" in cli(*path, "--help").out) == (path not in FOREGROUND)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_first_sentence_of_a_command_fits_the_overview(cli: Cli, path: tuple[str, ...]) -> None:
    if path == ("version",):  # not in the overview, which has --version
        return
    overview = cli(*path[:-1], "--help").out
    line = next(line for line in overview.splitlines() if line.split()[:1] == [path[-1]])
    assert not line.endswith("...")


def test_no_command_shows_the_overview(cli: Cli) -> None:
    result = cli()
    assert "Start:" in result.out + result.err


def test_the_help_of_plan_says_what_each_objective_buys_and_which_to_take(cli: Cli) -> None:
    shown = "".join(cli("plan", "--help").out.split())  # lines are broken at hyphens as well
    told = [f"{objective.value}: {BUYS[objective]}" for objective in Objective]
    for words in (*told, "Take min-devices first", "min-devices where it is not set"):
        assert "".join(words.split()) in shown
    assert Settings().planner.objective is Objective.MIN_DEVICES


def test_rare_options_are_not_on_the_first_screen(cli: Cli) -> None:
    assert "--paper-requests" not in cli("profile", "--help").out


def test_help_loads_nothing_heavy() -> None:
    """What makes help quick; the time itself would depend on the machine."""
    code = (
        f"import sys; import partitiond.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_overview_imports_no_command() -> None:
    code = (
        "import sys; from partitiond.cli.main import app; app(['--help'], standalone_mode=False); "
        "print([m for m in sys.modules if m.startswith('partitiond.cli.') and m.count('.') > 2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_table_holds_the_first_sentence_of_the_command(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    first = " ".join(command.help.partition("\n\n")[0].split())
    assert first.startswith(command.get_short_help_str())


def test_version(cli: Cli) -> None:
    from partitiond import __version__

    assert __version__ in cli("--version").out
    assert cli("version", "--json").json["partitiond"] == __version__


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "partitiond", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("partitiond ")
