"""Measures how long the CPU engine's environment takes with pip and with uv, with empty caches.

    python -m bench.control.install --rounds 2

The two alternate. pip gets the steps of the time before uv: the same requirements, removal of the
unwanted packages afterwards, and an import. Needs some 10 GB of space and the network.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from partitiond.engines.install.install import EXCLUDED, REQUIREMENTS, install
from partitiond.engines.install.package_sources import configured_sources

CHECK = "import vllm, torch, vllm.entrypoints.openai.api_server"


def with_pip(folder: Path) -> None:
    """A virtual environment with pip in it, filled by that pip."""
    python = str(folder / "environment" / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder / "environment")],
        [*pip, "install", "--cache-dir", str(folder / "cache"), *REQUIREMENTS["cpu"]],
        [*pip, "uninstall", "-y", *EXCLUDED["cpu"]],
        [python, "-I", "-c", CHECK],
    ):
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def with_uv(folder: Path) -> None:
    """Install as `partitiond setup engine install cpu` does; its cache is always empty."""
    install(folder, "cpu", configured_sources())


def measure(way: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of one installation."""
    folder.mkdir()
    before, started = os.times(), time.monotonic()
    way(folder)
    seconds, after = time.monotonic() - started, os.times()
    shutil.rmtree(folder)
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def main() -> None:
    """Alternate the two, and print each run and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    rounds: int = parser.parse_args().rounds
    ways = {"pip": with_pip, "uv": with_uv}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="bench-install-") as name:
        for _ in range(rounds):
            for way, make in ways.items():
                seconds, cpu = measure(make, Path(name, "one"))
                taken[way].append((seconds, cpu))
                print(f"{way:4} {seconds:6.1f} s, of CPU {cpu:6.1f} s", flush=True)
    for index, what in enumerate(("time", "CPU time")):
        pip, uv = (statistics.median(run[index] for run in taken[way]) for way in ways)
        print(f"{what}: pip {pip:.1f} s, uv {uv:.1f} s, ratio {pip / uv:.1f}")


if __name__ == "__main__":
    main()
