"""Makes environments for other projects' clients on first use, in the user's cache folder.

Each client gets a folder of its own, named after the hash of what is installed in it, so that a
change of a version makes a new one. Packages come from the registry that pip and npm are configured
for. A refused installation is an error with the installer's own words: tests that need the client
fail, they do not skip.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import platformdirs

from partitiond.engines.install.uv_run import uv_program

HERE = Path(__file__).parent
MARKER = "complete"
INSTALL_SECONDS = 600
"""It takes a few seconds; where a source answers slowly, minutes."""


class InstallError(Exception):
    """A client could not be installed; the message has the end of the installer's output."""


def cache_dir() -> Path:
    """Where the environments are kept."""
    return Path(platformdirs.user_cache_dir("partitiond")) / "test-clients"


def version_of(client: str) -> str:
    """The version that is installed and tried: the first pin of its requirements file."""
    found = re.search(
        r"^[\w.\[\]-]+==([\w.]+)", requirements(client).read_text("utf-8"), re.MULTILINE
    )
    assert found is not None, f"{client}.txt pins no version"
    return found[1]


def requirements(client: str) -> Path:
    return HERE / f"{client}.txt"


def python_of(client: str, *, beside: Path | None = None) -> Path:
    """The Python of a client's virtual environment.

    Args:
        client: name of its requirements file.
        beside: a Python whose packages it sees, too. Then what the file lists is installed
            without its dependencies: large ones (torch) are taken from there.
    """
    wanted = requirements(client)
    base = "" if beside is None else str(site_packages(beside))
    maker = beside or Path(sys.executable)
    digest = _hash(wanted.read_bytes(), sys.version.encode(), base.encode())
    folder = cache_dir() / f"{client}-{digest}"
    python = folder / "bin" / "python"

    def make() -> None:
        _run([str(maker), "-m", "venv", "--without-pip", str(folder)], f"make {folder}")
        install = [uv_program(), "pip", "install", "--quiet", "--python", str(python)]
        install += ["-r", str(wanted)]
        if beside is not None:
            install.append("--no-deps")
            (site_packages(python) / "beside.pth").write_text(f"{base}\n", "utf-8")
        _run(install, f"install {client}")

    _make_once(folder, make)
    return python


def node_folder() -> Path:
    """A folder with the Node packages of node/package.json in `node_modules`."""
    wanted = HERE / "node" / "package.json"
    folder = cache_dir() / f"node-{_hash(wanted.read_bytes())}"

    def make() -> None:
        folder.mkdir(parents=True)
        shutil.copy(wanted, folder)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--omit=peer", "--ignore-scripts"]
        _run(npm, "install the Node packages", folder)

    _make_once(folder, make)
    return folder


def site_packages(python: Path) -> Path:
    """Where the environment of a Python keeps its packages."""
    return next((python.parent.parent / "lib").glob("python3*/site-packages"))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _make_once(folder: Path, make: Callable[[], None]) -> None:
    """Make the folder where it is not complete; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / MARKER).exists():
            return
        shutil.rmtree(folder, ignore_errors=True)  # one that was killed half-made
        try:
            make()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / MARKER).touch()


def _run(
    command: Sequence[str],
    what: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise InstallError(f"cannot {what}: {command[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=cwd,
            env=os.environ | {"PYTHONWARNINGS": ""} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"cannot {what} within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        raise InstallError(f"cannot {what}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
