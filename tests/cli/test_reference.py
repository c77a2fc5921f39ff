"""The committed reference pages match the code."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

GENERATOR = Path(__file__).resolve().parents[2] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_up_to_date(generator: ModuleType) -> None:
    assert generator.outdated() == [], "run `make docs`"


def test_every_command_and_setting_is_on_its_page(generator: ModuleType) -> None:
    from partitiond.settings.schema import list_settings

    assert "## `partitiond models add`" in generator.cli_page()
    settings = generator.settings_page()
    for info in list_settings():
        assert info.environment in settings


def test_the_check_covers_every_generated_page(generator: ModuleType) -> None:
    pages = {
        path.name
        for path in (GENERATOR.parent / "reference").glob("*.md")
        if generator.NOTICE in path.read_text("utf-8")
    }
    assert pages == set(generator.PAGES)


def test_the_check_names_a_page_that_is_not_what_the_code_says(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    for name, make in generator.PAGES.items():
        (tmp_path / name).write_text(make(), "utf-8")
    assert generator.outdated() == []
    (tmp_path / "cli.md").write_text("# Command line\n", "utf-8")
    assert generator.outdated() == ["cli.md"]
