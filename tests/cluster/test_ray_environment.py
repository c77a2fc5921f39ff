"""Ray's environment is the one that is named, this one, or the managed one; else it says how."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from partitiond.cluster.ray_environment import (
    MARKER,
    RAY_VERSION,
    environment_folder,
    find_ray,
    install_ray,
    managed_ray,
)
from partitiond.core.errors import EngineUnavailableError, SettingsError
from partitiond.engines.install.uv_run import source_options


def program(path: Path, prints: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {prints}\n")
    path.chmod(0o755)
    return path


def managed(folder: Path) -> Path:
    python = program(environment_folder(folder) / "bin" / "python", RAY_VERSION)
    (environment_folder(folder) / MARKER).write_text(json.dumps({"version": RAY_VERSION}))
    return python


def test_the_interpreter_of_the_settings_comes_first(tmp_path: Path) -> None:
    managed(tmp_path)
    found = find_ray(program(tmp_path / "python", "2.55.1"), tmp_path)
    assert (found.python, found.version) == (tmp_path / "python", "2.55.1")


@pytest.mark.parametrize("version", ["", "2.51.2", "1.13.0", "nightly"])
def test_a_named_interpreter_without_a_ray_that_knows_tokens_is_refused_and_not_skipped(
    tmp_path: Path, version: str
) -> None:
    managed(tmp_path)
    python = program(tmp_path / "python", version) if version else tmp_path / "nowhere"
    with pytest.raises(SettingsError, match="knows no token" if version else "has no Ray"):
        find_ray(python, tmp_path)


def test_the_managed_environment_is_found_once_it_is_complete(tmp_path: Path) -> None:
    assert managed_ray(tmp_path) is None
    python = managed(tmp_path)
    found = managed_ray(tmp_path)
    assert found is not None
    assert found.python == python
    (environment_folder(tmp_path) / MARKER).unlink()
    assert managed_ray(tmp_path) is None


def test_without_ray_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    if "ray" in sys.modules:
        pytest.skip("Ray is beside partitiond here")
    with pytest.raises(SettingsError) as refused:
        find_ray(None, tmp_path)
    assert "setup engine install ray" in refused.value.hint


def test_a_source_without_ray_leaves_nothing_that_counts(tmp_path: Path) -> None:
    empty = tmp_path / "wheels"
    empty.mkdir()
    sources = source_options((), (empty,), offline=True)
    with pytest.raises(EngineUnavailableError, match="install Ray"):
        install_ray(tmp_path / "clusters", sources)
    assert managed_ray(tmp_path / "clusters") is None


def test_hosts_that_are_installed_on_different_days_have_the_same_ray() -> None:
    """Ray compares versions exactly: the extra has the version of the managed environment."""
    root = Path(__file__).resolve().parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert f"ray=={RAY_VERSION}" in extras["cluster"]
