"""Help exists for every command, is quick, and is readable at 80 columns."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main

from docs import generate
from partitiond import __version__
from partitiond.cli.exits import Exit, exit_for
from partitiond.cli.main import app
from partitiond.core import errors
from partitiond.core.errors import ConflictError, PartitiondError
from tests.cli.conftest import Cli, commands

FOREGROUND = (("serve",), ("host", "join"))
"""Commands that run until a signal; they have nothing to print as JSON."""
HEAVY = ("pydantic", "fastapi", "ortools", "httpx", "sqlmodel", "rich", "matplotlib", "psutil")


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
    nothing = cli()
    assert "Start:" in nothing.out + nothing.err, "no command shows the overview"
    assert __version__ in cli("--version").out


def classes(kind: type[PartitiondError]) -> Iterator[type[PartitiondError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from classes(child)


def test_errors_have_documented_exit_codes(cli: Cli) -> None:
    """But for those of the endpoint, which no command raises."""
    kinds = set(classes(PartitiondError)) - {errors.UpstreamError}
    assert len(kinds) > 10
    assert not [kind for kind in kinds if exit_for(kind("broke.")) is Exit.FAILED]

    class SpecialError(ConflictError):
        code = "special"

    assert exit_for(SpecialError("taken.")) is Exit.CONFLICT
    result = cli("plan --from", "x" * 5000)
    result.refused(Exit.BAD_INPUT, "cannot be used: File name too long", "characters)")
    assert len(result.err) < 1000


def test_every_reference_page_is_up_to_date() -> None:
    assert generate.outdated() == [], "run `make docs`"
    folder = Path(generate.__file__).parent / "reference"
    pages = {p.name for p in folder.glob("*.md") if generate.NOTICE in p.read_text("utf-8")}
    assert pages == set(generate.PAGES)
