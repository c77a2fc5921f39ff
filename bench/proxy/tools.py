"""Installs other projects' proxies that are Python packages, each in its own environment."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.proxy.native import cache_folder

PACKAGES: Final = {"vllm-router": "vllm-router==0.1.17", "litellm": "litellm[proxy]==1.106.0"}


class MissingError(Exception):
    """A proxy cannot run here; the text says how to install it."""


def environment_program(name: str) -> Path:
    """The program of a package, installed on first use (this may take minutes).

    Raises:
        MissingError: the package could not be installed.
    """
    package = PACKAGES[name]
    folder = cache_folder() / package.replace("==", "-").replace("[proxy]", "")
    program = folder / "bin" / name
    if (folder / ".installed").exists():
        return program
    print(f"Installing {package} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    commands: tuple[list[str | Path], ...] = (
        [sys.executable, "-m", "venv", folder],
        [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", package],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise MissingError(f"cannot install {package} (pip install {package}): {last}")
    (folder / ".installed").touch()
    return program


def file_limit() -> int:
    """Number of files that a process may open after raising its limit to the maximum."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
