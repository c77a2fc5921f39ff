"""The tree of commands has headings, former names, and groups that work without a subcommand."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import partitiond
from partitiond.cli.main import app
from partitiond.cli.tree import (
    ADVISE_OPTIONS,
    ESTIMATE_OPTIONS,
    HEADINGS,
    KEY_OPTIONS,
    MEASURE_OPTIONS,
    MODEL_OPTIONS,
    MOVED,
    PLAN_OPTIONS,
)
from tests.cli.conftest import Cli

ROOT: Any = typer.main.get_command(app)
SOURCES = Path(partitiond.__file__).parent


def at(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


def test_the_overview_shows_each_command_once_under_a_heading(cli: Cli) -> None:
    placed = [name for names in HEADINGS.values() for name in names]
    assert sorted(placed) == sorted(name for name in ROOT.commands if name != "version")
    shown = cli("--help").out
    for heading in HEADINGS:
        assert f"\n{heading}:\n" in shown
    assert len(placed) <= 19
    for old in MOVED:
        assert not re.search(rf"^  {old} ", shown, re.MULTILINE)


@pytest.mark.parametrize("old", MOVED)
def test_a_former_name_works_and_names_the_new_one_on_stderr(cli: Cli, old: str) -> None:
    command = at(MOVED[old])
    words = [next(iter(command.commands))] if hasattr(command, "commands") else []
    before, now = cli(old, *words, "--help"), cli(*MOVED[old], *words, "--help")
    moved = f"`partitiond {old}` is now `partitiond {' '.join(MOVED[old])}`; "
    assert before.err == f"{moved}the old name still works.\n"
    assert now.err == ""
    without_usage = [text.partition("\n")[2] for text in (before.out, now.out)]
    assert without_usage[0] == without_usage[1]


def test_a_former_name_leaves_json_and_the_exit_status_as_they_were(cli: Cli) -> None:
    assert "config_file" in cli("config path --json").json
    assert cli("jobs list --json").code == 5  # no daemon
    assert cli("config pathh").code == 2


def test_completing_a_former_name_prints_no_hint(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PARTITIOND_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "partitiond mig ")
    monkeypatch.setenv("COMP_CWORD", "2")
    completed = cli()
    assert completed.out.split() == ["show", "plan", "apply"]
    assert completed.err == ""
    monkeypatch.setenv("COMP_WORDS", "partitiond ")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert "drift" not in cli().out.split()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("devices", "--json", "-h"), ("devices", "list", "--json", "-h")),
        (("setup", "config"), ("setup", "config", "show")),
        (("setup", "--purge"), ("setup", "host", "--purge")),
        (("setup", "engine"), ("setup", "engine", "list")),
        (("devices", "mig"), ("devices", "mig", "show")),
        (("keys",), ("keys", "list")),
        (("models",), ("models", "list")),
        (("models", "drift"), ("models", "drift", "show")),
        (("profile",), ("profile", "list")),
        (("profile", "--json"), ("profile", "list", "--json")),
        (("profile", "jobs"), ("profile", "jobs", "list")),
        (("profile", "no-such"), ("profile", "measure", "no-such")),
        (("profile", "--seed", "1", "no"), ("profile", "measure", "--seed", "1", "no")),
    ],
    ids=" ".join,
)
def test_a_group_alone_does_what_is_looked_for(
    cli: Cli, typed: tuple[str, ...], meant: tuple[str, ...]
) -> None:
    assert cli(*typed) == cli(*meant)


def test_the_help_of_a_group_says_what_it_does_alone_and_with_which_options(cli: Cli) -> None:
    assert "Without a command: list keys: ids" in cli("keys --help").out
    profile = cli("profile --help").out
    assert "Usage: partitiond profile [OPTIONS] MODEL | COMMAND [ARGS]..." in profile
    assert "--weights" in profile
    assert "--undo" in cli("setup -h").out


def test_a_misspelt_command_of_a_group_is_refused_with_the_nearest(cli: Cli) -> None:
    refused = cli("models lst")
    assert refused.code == 2
    assert "Did you mean 'list'" in refused.err


def test_no_message_of_ours_says_a_former_name() -> None:
    former = re.compile(rf"\bpartitiond\s+({'|'.join(MOVED)})\b(?![\w.\-=/(]| \{{)")
    for file in SOURCES.rglob("*.py"):
        text = file.read_text("utf-8")
        found = [match[0] for match in former.finditer(text) if file.name != "tree.py"]
        assert not found, f"{file}: {found}"


FIRST, MANY = 15, 18
TABLES = {
    ("models", "add"): MODEL_OPTIONS,
    ("models", "update"): MODEL_OPTIONS,
    ("profile", "measure"): MEASURE_OPTIONS,
    ("plan",): PLAN_OPTIONS,
    ("keys", "create"): KEY_OPTIONS,
    ("keys", "update"): KEY_OPTIONS,
    ("tools", "estimate"): ESTIMATE_OPTIONS,
    ("tools", "advise"): ADVISE_OPTIONS,
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
    assert not any(
        re.search(rf"^  {o}\b(?!-)", first, re.MULTILINE)
        for options in table.values()
        for o in options.split()
    )


def test_headings_name_no_option_that_is_gone() -> None:
    there = {
        id(table): {
            p.opts[0] for path, one in TABLES.items() if one is table for p in at(path).params
        }
        for table in TABLES.values()
    }
    for table in TABLES.values():
        assert {option for options in table.values() for option in options.split()} <= there[
            id(table)
        ]


def test_a_command_that_comes_to_have_many_options_needs_headings() -> None:
    def paths(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from paths(command, (*above, name))
            elif len([p for p in command.params if p.opts[0][0] == "-"]) > MANY:
                yield (*above, name)

    assert set(paths(ROOT)) <= TABLES.keys()
