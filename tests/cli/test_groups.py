"""The tree of commands has headings, and groups that work without a subcommand."""

import re
from typing import Any

import pytest
import typer.main

from partitiond.cli import tree
from partitiond.cli.main import app
from tests.cli.conftest import Cli, commands

ROOT: Any = typer.main.get_command(app)


def at(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


def test_the_overview_shows_each_command_once_under_a_heading(cli: Cli) -> None:
    placed = [name for names in tree.HEADINGS.values() for name in names]
    assert sorted(placed) == sorted(name for name in ROOT.commands)
    shown = cli("--help").out
    for heading in tree.HEADINGS:
        assert f"\n{heading}:\n" in shown
    assert len(placed) <= 18


def test_a_group_alone_does_what_is_looked_for(cli: Cli) -> None:
    for typed, meant in (
        ("devices --json -h", "devices show --json -h"),
        ("setup config", "setup config show"),
        ("setup --purge", "setup host --purge"),
        ("keys", "keys show"),
        ("profile --json", "profile show --json"),
        ("profile no-such", "profile measure no-such"),
        ("profile --seed 1 no", "profile measure --seed 1 no"),
    ):
        assert cli(typed) == cli(meant)


def test_the_help_of_a_group_says_what_it_does_alone_and_with_which_options(cli: Cli) -> None:
    assert "Without a command: list keys, show what one may do" in cli("keys --help").out
    profile = cli("profile --help").out
    assert "Usage: partitiond profile [OPTIONS] MODEL | COMMAND [ARGS]..." in profile
    assert "--weights" in profile
    assert "--paper-requests" not in profile, "rare options are not on the first screen"
    assert "--undo" in cli("setup -h").out
    cli("models shwo").refused(2, "Did you mean 'show'? `partitiond models show shwo` shows one.")
    for group in ("models", "devices", "keys"):
        says = f"No such command 'qwen'. `partitiond {group} show qwen` shows one."
        cli(group, "qwen").refused(2, says)
    for group in ("hosts", "setup"):
        assert "shows one" not in cli(*group.split(), "qwen").err, "there is no such command"


FIRST, MANY = 15, 18
TABLES = {
    ("models", "add"): tree.MODEL_OPTIONS,
    ("models", "update"): tree.MODEL_OPTIONS,
    ("profile", "measure"): tree.MEASURE_OPTIONS,
    ("plan",): tree.PLAN_OPTIONS,
    ("keys", "create"): tree.KEY_OPTIONS,
    ("keys", "update"): tree.KEY_OPTIONS,
    ("tools", "estimate"): tree.ESTIMATE_OPTIONS,
}


@pytest.mark.parametrize("path", TABLES, ids=" ".join)
def test_many_options_stand_under_headings_and_each_of_them_once(
    cli: Cli, path: tuple[str, ...]
) -> None:
    out, table = cli(*path, "--help").out, TABLES[path]
    shown = out[out.index("\nOptions:\n") :]
    visible = [p.opts[0] for p in at(path).params if p.opts[0][0] == "-" and not p.hidden]
    for option in [*visible, "--help"]:
        assert len(re.findall(rf"^  (?:-\w, )?{option}\b(?!-)", shown, re.MULTILINE)) == 1, option
    begins = [shown.index(f"\n{heading}:\n") for heading in ("Options", *table)]
    assert begins == sorted(begins)
    first = shown[begins[0] : begins[1]]
    assert len(re.findall(r"^  -", first, re.MULTILINE)) <= FIRST
    named = {option for options in table.values() for option in options.split()}
    assert not [o for o in named if re.search(rf"^  {o}\b(?!-)", first, re.MULTILINE)]
    sharing = [other for other, one in TABLES.items() if one is table]
    assert named <= {p.opts[0] for other in sharing for p in at(other).params}, "one is gone"


def test_a_command_that_comes_to_have_many_options_needs_headings() -> None:
    found = {
        path
        for path, command in commands(ROOT)
        if len([p for p in command.params if p.opts[0][0] == "-"]) > MANY
    }
    assert found <= TABLES.keys()
