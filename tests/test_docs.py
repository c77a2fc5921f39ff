"""What the pages name exists: links, paths of the tree, commands and settings."""

import re
from pathlib import Path

import pytest
import typer

from partitiond.cli.main import app
from partitiond.settings import list_settings

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "profiles").glob("*.md")]
)
TREE = re.compile(r"`((?:partitiond|loadgen|tests|docs|examples|bench|deploy)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^\$ partitiond ([a-z]+)(?: ([a-z]+))?", re.MULTILINE)
SETTING = re.compile(
    r"`((?:control|proxy|engine|profiling|planner|cpu|gpu|models|daemon)\.(?!py|lock)\w+)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in TREE.findall(text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page: Path) -> None:
    known = {setting.key for setting in list_settings()}
    for name in SETTING.findall(page.read_text(encoding="utf-8")):
        assert name in known, f"{page.name} names the setting {name}"


def test_commands_that_are_shown_exist() -> None:
    commands = getattr(typer.main.get_command(app), "commands", {})
    shown = {found for page in PAGES for found in COMMAND.findall(page.read_text("utf-8"))}
    assert len(shown) > 5
    for first, second in shown:
        assert first in commands, f"partitiond {first}"
        inner = getattr(commands[first], "commands", None)
        if inner is not None:
            assert second in inner, f"partitiond {first} {second}"
