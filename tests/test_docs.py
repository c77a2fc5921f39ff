"""All that the pages name exists: links, paths, commands, options, modules, settings, tests."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from partitiond.cli.groups import Lists
from partitiond.cli.main import app
from partitiond.settings.schema import Settings
from partitiond.settings.sources import describe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "profiles").glob("*.md")])
TREE = re.compile(r"`((?:partitiond|loadgen|tests|docs|examples|bench|deploy)/[\w./-]+)`")
ROOMS = "|".join(path.parent.name for path in (ROOT / "partitiond").glob("*/__init__.py"))
IN_ROOM = re.compile(rf"`((?:{ROOMS})/[\w/-]+(?:\.py)?)`")
"""A path below `partitiond/`, as pages about the code shorten it."""
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
COMMAND = re.compile(r"^\$ partitiond (.+?)(?:  +#.*)?$", re.MULTILINE)
INLINE_COMMAND = re.compile(r"`partitiond ([a-z][^`\n]*)`")
MODULE = re.compile(r"python3? -m ((?:bench|loadgen|partitiond)(?:\.\w+)*)")
TEST = re.compile(r"`(?:[\w/]+\.py::)?(test_\w+)`")
DEFINED = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in (file.stem, *DEFINED.findall(file.read_text(encoding="utf-8")))
}
KEYS = {setting.key for setting in describe(Settings)}
TABLES = {key.partition(".")[0] for key in KEYS if "." in key}
SETTING = re.compile(rf"`((?:{'|'.join(sorted(TABLES))})\.(?!py|lock)\w+)`")
ROOT_COMMAND: Any = typer.main.get_command(app)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the web."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after `partitiond` of each command line that a page shows."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in [*COMMAND.findall(text), *INLINE_COMMAND.findall(text)]:
        words = shlex.split(re.split(r" (?:&&?|\||>) ?", line)[0].removesuffix("&"))
        if words and "|" not in line:
            yield words


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the options among them."""
    command, left, given = ROOT_COMMAND, list(words), []
    known = {flag for p in ROOT_COMMAND.params for flag in p.opts}
    while left and left[0].startswith("-"):
        assert left[0] in known, f"partitiond has no option {left[0]}"
        takes_value = next(p for p in ROOT_COMMAND.params if left[0] in p.opts).is_flag is False
        left = left[2:] if takes_value else left[1:]
    while hasattr(command, "commands"):
        left = command.with_command(left) if isinstance(command, Lists) else left
        if not left:
            break
        assert left[0] in command.commands, f"partitiond has no command {' '.join(words)}"
        command, left = command.commands[left[0]], left[1:]
    given = [word.partition("=")[0] for word in left if re.match(r"--?[a-z]", word)]
    return command, given


def faults_of(page: Path) -> Iterator[str]:
    """What a page names and is not there: links, anchors, paths, settings and modules."""
    text = page.read_text(encoding="utf-8")
    for link, anchor in LINK.findall(CODE.sub("", text)):
        target = page.parent / link if link else page
        if "://" not in link and not target.exists():
            yield f"links to {link}"
        elif "://" not in link and anchor and anchor not in anchors(target):
            yield f"links to {link}#{anchor}"
    yield from (f"names {path}" for path in TREE.findall(text) if not (ROOT / path).exists())
    rooms = (path for path in IN_ROOM.findall(text) if not (ROOT / "partitiond" / path).exists())
    yield from (f"names {path}" for path in rooms)
    yield from (f"names the setting {name}" for name in SETTING.findall(text) if name not in KEYS)
    yield from (f"names the test {name}" for name in TEST.findall(text) if name not in TESTS)
    for name in MODULE.findall(text):
        spec = importlib.util.find_spec(name)
        if spec is None:
            yield f"names {name}"
        elif spec.submodule_search_locations and not importlib.util.find_spec(f"{name}.__main__"):
            yield f"runs {name}"


def test_what_pages_name_exists() -> None:
    assert len(PAGES) > 60
    assert not [f"{page.name} {fault}" for page in PAGES for fault in faults_of(page)]


def test_what_a_page_names_and_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    page.write_text(
        "# A b\n[x](#a-b) [x](#b) [x](no.md) `docs/no.md` `docs/README.md` `proxy.prot` "
        "`proxy.port` `test_docs` `tests/a.py::test_nothing` `core/errors.py` `core/no.py` "
        "python -m partitiond.core python -m bench.no\n"
    )
    assert list(faults_of(page)) == [
        "links to #b", "links to no.md", "names docs/no.md", "names core/no.py",
        "names the setting proxy.prot", "names the test test_nothing", "runs partitiond.core",
        "names bench.no",
    ]  # fmt: skip


def test_commands_that_are_shown_exist_with_their_options() -> None:
    shown = [words for page in PAGES if page.parent.name != "reference"
             for words in command_lines(page)]  # fmt: skip
    assert len(shown) > 40
    for words in shown:
        command, given = command_of(words)
        options = {flag for p in command.params for flag in [*p.opts, *p.secondary_opts]}
        for option in given:
            assert option in options | {"--help"}, f"partitiond {' '.join(words)}: no {option}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    named = {(DOCS / link).resolve() for link, _ in LINK.findall(index)}
    decisions = (DOCS / "decisions").resolve()
    pages = {p.resolve() for p in DOCS.rglob("*.md")} - {(DOCS / "README.md").resolve()}
    missing = {p for p in pages - named if p.parent != decisions}
    assert not missing
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    for page in decisions.glob("0*.md"):
        assert f"({page.name})" in listed, f"the decisions' index lacks {page.name}"
