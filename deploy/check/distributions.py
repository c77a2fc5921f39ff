"""Checks the sdist and the wheel in a folder: `make dist` builds and checks them.

For each it checks the contents, and that they name no path of this machine. The wheel, which is
built from the sdist, works without the checkout: installed into an empty environment, it plans the
tour's fleet, and compiles the simulated libraries and the proxy's hot path, if there is a C
compiler. The sdist is then installed in its place, and says its version.

Compilers take nearly all of the time: that of the hot path runs beside the plan.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from pathlib import Path
from typing import Final

from partitiond.engines.install.uv_run import uv_program

ROOT: Final = Path(__file__).resolve().parents[2]
NEVER: Final = (".so", ".pyc", ".o")
SHIPPED: Final = ("deploy", "examples")
"""Folders of the checkout that are inside the package in a wheel."""


class DistributionError(Exception):
    """A distribution is wrong; the message says how."""


def main() -> None:
    """Check the distributions in the folder given last; with `--contents`, these alone."""
    folder = Path(sys.argv[-1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    if "--contents" in sys.argv:
        return
    with tempfile.TemporaryDirectory(prefix="dist-") as name:
        environment = EmptyEnvironment(Path(name))
        environment.install(wheel.resolve())
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(environment.plan), pool.submit(environment.compile)]:
                done.result()
        print(f"{wheel} is complete, and works in an empty environment")
        environment.install(sdist.resolve(), "--no-deps", "--reinstall")
        print(f"{sdist} is complete, and works in an empty environment")


def tracked() -> set[str]:
    """Existing files of the checkout that git tracks or would add."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def check_wheel(wheel: Path) -> None:
    """Refuse a wheel that lacks a file of the package, or has a surplus file."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    info = next(name.split("/")[0] for name in contents if name.split("/")[1:] == ["METADATA"])
    expected = {name for name in tracked() if name.startswith(("partitiond/", "loadgen/"))}
    expected |= {f"partitiond/{name}" for name in tracked() if name.startswith(SHIPPED)}
    found = {name for name in contents if not name.startswith(f"{info}/")}
    _same(wheel, found, expected)
    metadata = BytesParser().parsebytes(contents[f"{info}/METADATA"])
    for field in ("Name", "Version", "Summary", "Requires-Python", "License-Expression"):
        if not metadata[field]:
            raise DistributionError(f"{wheel}: its metadata have no {field}.")
    if not str(metadata.get_payload()).startswith("# partitiond"):
        raise DistributionError(f"{wheel}: its description is not the README.")
    if f"{info}/licenses/LICENSE" not in contents:
        raise DistributionError(f"{wheel}: it has no licence.")
    if b"partitiond = partitiond.__main__:main" not in contents[f"{info}/entry_points.txt"]:
        raise DistributionError(f"{wheel}: it does not install the command.")
    _no_places(wheel, contents)


def check_sdist(sdist: Path) -> None:
    """Refuse an sdist that differs from the checkout."""
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        contents = {
            member.name.partition("/")[2]: file.read()
            for member in members
            if (file := archive.extractfile(member)) is not None
        }
    _same(sdist, set(contents) - {"PKG-INFO"}, tracked())
    _no_places(sdist, contents)


def _same(path: Path, found: set[str], expected: set[str]) -> None:
    missing, surplus = sorted(expected - found), sorted(found - expected)
    if missing:
        raise DistributionError(f"{path}: it lacks {', '.join(missing[:8])}.")
    if surplus:
        raise DistributionError(f"{path}: {', '.join(surplus[:8])} should not be in it.")
    if wrong := [name for name in found if name.endswith(NEVER)]:
        raise DistributionError(f"{path}: {', '.join(wrong[:8])} should not be in it.")


def _no_places(path: Path, contents: dict[str, bytes]) -> None:
    places = (bytes(ROOT), bytes(Path.home() / ".cache"))
    for name, data in contents.items():
        if any(place in data for place in places):
            raise DistributionError(f"{path}: {name} names a place of this machine.")


class EmptyEnvironment:
    """An environment in a folder, with nothing but what is installed into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._python = str(folder / "environment" / "bin" / "python")
        self._partitiond = str(folder / "environment" / "bin" / "partitiond")
        self._ours = {k: v for k, v in os.environ.items() if not k.startswith("PARTITIOND")}
        self._home = {"PATH": self._ours["PATH"], "HOME": str(folder), "COLUMNS": "100"}
        made = [uv_program(), "venv", "--quiet", "--python", sys.executable, "environment"]
        _run(made, folder, self._ours)

    def install(self, distribution: Path, *options: str) -> None:
        """Install a distribution; it is what is imported, and says its version."""
        # The package's extra brings the compiler of the hot path.
        _run(
            [uv_program(), "pip", "install", "--quiet", "--python", self._python, *options,
             f"partitiond[native] @ {distribution.as_uri()}"],
            self._folder, self._ours,
        )  # fmt: skip
        where = self._says(self._python, "-c", "import partitiond; print(partitiond.__file__)")
        if not where.startswith(str(self._folder)):
            raise DistributionError(f"{distribution}: partitiond comes from {where.strip()}.")
        self._says(self._partitiond, "--version")

    def plan(self) -> None:
        """Plan the tour's fleet."""
        plan = self._says(self._partitiond, "plan", "--from", "examples/twelve-models.toml")
        if "Plan offline-twelve-models" not in plan:
            raise DistributionError(f"the tour printed no plan:\n{plan}")

    def compile(self) -> None:
        """Compile the simulated libraries and the proxy's hot path."""
        if shutil.which("cc") is None:
            print("skip: there is no C compiler here, nothing is compiled")
            return
        host = ("tools", "simulate", "create", "a100-80gb-x8", "--out", "host")
        self._says(self._partitiond, *host)
        # That it compiles, not how quick it is: optimising takes most of two minutes.
        told = self._says(self._python, "-m", "partitiond.native", MYPYC_OPT_LEVEL="0")
        if self._says(self._python, "-m", "partitiond.native", MYPYC_OPT_LEVEL="0"):
            raise DistributionError(f"nothing is compiled: {told}")

    def _says(self, *argv: str, **variables: str) -> str:
        return _run(list(argv), self._folder, self._home | variables)


def _run(argv: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        output = (done.stdout + done.stderr)[-3000:]
        raise DistributionError(f"{' '.join(argv)} ended with {done.returncode}:\n{output}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except DistributionError as error:
        sys.exit(f"error: {error}")
