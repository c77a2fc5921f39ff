"""Every command handles strange values of each argument and option, against a daemon.

Commands and options come from the command line itself: a new one is covered without a change here.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main

from partitiond.cli import main
from partitiond.cli.exits import Exit
from tests.cli.conftest import Cli, Result, commands
from tests.cli.test_with_daemon import Partitiond, partitiond

__all__ = ["partitiond"]  # the fixture

Words = tuple[str, ...]

NOT_TRIED: Mapping[Words, str] = {
    ("serve",): "runs until it is ended",
    ("down",): "ends the daemon of the other cases",
    ("setup", "host"): "changes this machine",
    ("host", "join"): "runs until it is ended; test_host_commands.py tries what it is given",
    ("setup", "engine", "install"): "downloads",
}
LONG = "x" * 5000
FILES: Words = ("folder", "absent.toml", "bad.toml", "bad.json", "/proc/self/mem", "", LONG)
"""/proc/self/mem is a file that cannot be read, be it by root."""
TEXTS: Words = ("☃", "", "../x", "-1", LONG, "absent", "nan", "..", "bad.json")
FLOATS: Words = ("nan", "1e999", "-1", "☃", "")
INTEGERS: Words = ("-1", "1e999", "☃", "", "99999999999999999999")
NEEDED = {
    "MODEL": "opt-125m",
    "NAME": "strange",
    "PROFILE": "a-profile",
    "KEY": "a-key",
    "DEVICE": "cpu",
    "FILE": "absent.toml",
    "FLEET": "fleet.toml",
    "DIR": "gpus",
    "WHAT [VALUE]...": "lose",
    "--file": "absent.toml",
    "--out": "folder",
}
"""What the other arguments and options are, where a command insists on them."""
BESIDE: Mapping[Words, Words] = {
    ("models", "add"): ("--no-auto", "--name=other"),
    ("tools", "estimate"): ("--hardware=a100-40gb",),
    ("tools", "advise"): ("--address=http://127.0.0.1:1", "--gpu=1 a100-80gb"),
    ("devices", "cordon"): ("--reason=tried",),
    ("setup", "restore"): ("--force",),
}
"""What a command needs beside them before it looks at the rest."""
IN_PLACE: Mapping[Words, dict[str, str]] = {("tools", "simulate", "create"): {"NAME": "mixed"}}
"""What takes the place of the above for one command."""
PROFILE = next((Path(__file__).parents[2] / "profiles").glob("opt-125m-*.json"))
FLEET = """
[[devices]]
hardware = "a100-40gb"

[[models]]
model = "opt-125m"
demand = { req_per_s = 1 }
"""


def strange(annotation: Any) -> Words:
    if annotation is float:
        return FLOATS
    if annotation is int:
        return INTEGERS
    return FILES if annotation is Path else TEXTS


def needed(path: Words, parameter: Any) -> Words:
    """An argument or option that is not the one that is tried, where it has to be there."""
    estimated = path == ("tools", "estimate") and parameter.metavar == "MODEL"
    if not (parameter.required or estimated):  # a fit alone is without a model
        return ()
    if parameter.param_type_name == "argument":
        return ((NEEDED | IN_PLACE.get(path, {})).get(parameter.metavar, "absent"),)
    return (parameter.opts[0], NEEDED[parameter.opts[0]])


@dataclasses.dataclass(frozen=True)
class Try:
    """A line, and the argument or option in it that has a strange value."""

    line: Words
    option: str
    value: str


def tries(root: Any) -> Iterator[Try]:
    """Each argument and option of each command, with the next of the values for its type."""
    turns = {kind: itertools.cycle(kind) for kind in (FILES, TEXTS, FLOATS, INTEGERS)}
    for path, command in commands(root):
        if path in NOT_TRIED:
            continue
        for tried in command.params:
            if getattr(tried, "is_flag", False):
                continue
            others = [
                word
                for other in command.params
                if other is not tried
                for word in needed(path, other)
            ]
            words = (*path, *BESIDE.get(path, ()), *others)
            value = next(turns[strange(tried.type_descriptor.annotation)])
            if tried.param_type_name == "argument":
                yield Try((*words, "--", value), tried.metavar or tried.name, value)
            else:
                yield Try((*words, f"{tried.opts[0]}={value}"), tried.opts[0], value)


def faults(tried: Try, result: Result) -> list[str]:
    """What is wrong with an answer; nothing where the value is taken."""
    said, found = result.err.replace("\n", " "), []
    if result.code not in set(Exit) or "Traceback" in said or "inside the daemon" in said:
        found.append("it broke")
    if result.code in (Exit.OK, Exit.UNPLACED):
        return found
    if len(re.findall(r"^[eE]rror: ", result.err, re.MULTILINE)) != 1:
        found.append("not one message")
    if not ("what to do: " in said or re.search(r"Try 'partitiond .* -h' for help", said)):
        found.append("no hint")
    if re.search(r"PATCH|(GET|POST|DELETE) /", said):
        found.append("it speaks of the API")
    if len(said) > 2000:
        found.append("too long")
    if result.code in (Exit.BAD_INPUT, Exit.NOT_FOUND) and not names_it(tried, said):
        found.append("the value is not named")
    return found


def names_it(tried: Try, said: str) -> bool:
    """Whether a message names the value, the option that does not go with the others, or the field
    that is missing beside it.
    """
    if "must be given" in said:
        return True
    option = tried.option.strip("-")
    words = {tried.value[:20], str(Path(tried.value).resolve()), option, option.replace("-", "_")}
    if tried.value == "1e999":
        words.add("inf")
    return not tried.value or any(word in said for word in words)


@pytest.fixture
def here(partitiond: Partitiond, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli) -> Cli:
    """The command line beside that daemon, in a folder with strange files."""
    for name in [name for name in os.environ if name.startswith("PARTITIOND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PARTITIOND_CONFIG", str(partitiond.config))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.toml").write_text("[[x\n")
    (tmp_path / "bad.json").write_text('{"a":')
    (tmp_path / "fleet.toml").write_text(FLEET)
    cli("models", "add", "opt-125m", "--name", "strange", "--weights", "dummy", "--no-auto")
    return cli


def test_strange_values_are_refused_in_words_by_every_command(
    here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = json.loads(PROFILE.read_text())
    made = {
        "a-key": here("keys", "create", "--json").json["record"]["id"],
        "a-profile": measured["id"],
    }
    assert here("profile", "import", PROFILE).code == 0
    assert here("tools", "simulate", "create", "mixed", "--out", "gpus").code == 0
    root = typer.main.get_command(main.app)
    monkeypatch.setattr(main, "app", root)  # built once for all lines
    wrong, count = [], 0
    for tried in tries(root):
        count += 1
        try:
            result = here(*(made.get(word, word) for word in tried.line))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            OSError,
            TypeError,
            ValueError,
        ) as error:
            result = Result(1, "", f"Traceback: {error!r}")
        if found := faults(tried, result):
            wrong.append(f"{found} {[word[:40] for word in tried.line]} {result.err[:300]}")
    assert not wrong, "\n".join(wrong)
    assert count > 220
