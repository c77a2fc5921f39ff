"""An interpreter sees a folder made by `pip install --target` when the runner queries it."""

import sys
from pathlib import Path

import pytest

from bench.gpu_check.engine_python import with_folder
from partitiond.core.errors import EngineUnavailableError
from partitiond.engines.install.environment import read_environment


def fake_vllm(folder: Path) -> Path:
    info = folder / "vllm-0.22.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.22.0\n")
    return folder


def test_its_packages_are_seen_in_isolated_mode_and_so_are_the_interpreters(
    tmp_path: Path,
) -> None:
    target = fake_vllm(tmp_path / "with space" / "packages")
    python = with_folder(Path(sys.executable), target, tmp_path / "env")
    found = read_environment(python)
    assert found is not None
    assert (found.version, found.variant) == ("0.22.0", "cuda")
    again = with_folder(Path(sys.executable), target, tmp_path / "env")
    assert again == python
    import subprocess

    subprocess.run([str(python), "-I", "-c", "import pydantic, numpy"], check=True)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        with_folder(Path(sys.executable), tmp_path / "nothing", tmp_path / "env")
    assert "--target" in caught.value.hint


def test_what_is_no_python_is_said(tmp_path: Path) -> None:
    target = fake_vllm(tmp_path / "packages")
    for python in (Path("/bin/false"), tmp_path / "nothing"):
        with pytest.raises(EngineUnavailableError):
            with_folder(python, target, tmp_path / "env")
