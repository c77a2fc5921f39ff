"""Checks the sdist and the wheel in a folder: `make dist` builds and checks them.

For each it checks the contents, that they name no path of this machine, and that it works without
the checkout: installed into an empty environment, it plans the tour's fleet. The wheel, which is
built from the sdist, also compiles the simulated libraries and the proxy's hot path, if there is a
C compiler.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Final

from partitiond.engines.install.package_sources import configured_sources, uv_program

ROOT: Final = Path(__file__).resolve().parents[2]
NEVER: Final = (".so", ".pyc", ".o")
SHIPPED: Final = ("deploy", "examples")
"""Folders of the checkout that are inside the package in a wheel."""


class DistributionError(Exception):
    """A distribution is wrong; the message says how."""


def main() -> None:
    """Check the distributions in the folder given as the first argument."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    for distribution in (wheel, sdist):
        with tempfile.TemporaryDirectory(prefix="dist-") as name:
            run_from(distribution.resolve(), Path(name), compiles=distribution is wheel)
        print(f"{distribution} is complete, and works in an empty environment")


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
    if b"partitiond = partitiond.cli.main:main" not in contents[f"{info}/entry_points.txt"]:
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


def run_from(distribution: Path, folder: Path, *, compiles: bool) -> None:
    """Install into an empty environment in `folder`, run the tour in it, and compile C there."""
    sources = configured_sources()
    python = str(folder / "environment" / "bin" / "python")
    base = {name: value for name, value in os.environ.items() if not name.startswith("PARTITIOND")}
    _run([uv_program(), "venv", "--quiet", "--python", sys.executable, "environment"], folder, base)
    # The package's extra brings the compiler of the hot path.
    _run(
        [uv_program(), "pip", "install", "--quiet", "--python", python, *sources.arguments(),
         f"partitiond[native] @ {distribution.as_uri()}"],
        folder, base | sources.environment(),
    )  # fmt: skip
    home = {"PATH": base["PATH"], "HOME": str(folder), "COLUMNS": "100"}
    partitiond = str(folder / "environment" / "bin" / "partitiond")
    where = _run([python, "-c", "import partitiond; print(partitiond.__file__)"], folder, home)
    if not where.startswith(str(folder)):
        raise DistributionError(f"{distribution}: partitiond is imported from {where.strip()}.")
    _run([partitiond, "--version"], folder, home)
    plan = _run([partitiond, "plan", "--from", "examples/twelve-models.toml"], folder, home)
    if "Plan offline-twelve-models" not in plan:
        raise DistributionError(f"{distribution}: the tour printed no plan:\n{plan}")
    if not compiles:
        return
    if shutil.which("cc") is None:
        print("skip: there is no C compiler here, nothing is compiled")
        return
    host = [partitiond, "tools", "simulate", "create", "a100-80gb-x8", "--out", "host"]
    _run(host, folder, home)
    _run([python, "-m", "partitiond.native"], folder, home)
    _run([python, "-m", "partitiond.native", "--check"], folder, home)


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
