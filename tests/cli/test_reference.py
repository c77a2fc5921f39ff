"""The committed reference pages are what the code says."""

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
    from partitiond.settings import list_settings

    assert "## `partitiond models add`" in generator.cli_page()
    settings = generator.settings_page()
    for info in list_settings():
        assert info.environment in settings
