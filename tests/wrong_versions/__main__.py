"""Puts each wrong version into a copy of the tree and runs the tests that have to refuse it.

    python -m tests.wrong_versions [WORDS]     rules whose sentence has all of these words

Ends with 1 when a wrong version was accepted, or when a test fails on the tree as it is.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.wrong_versions.rule import Wrong
from tests.wrong_versions.rules import RULES

ROOT: Final = Path(__file__).resolve().parents[2]
LEFT_OUT: Final = shutil.ignore_patterns(".*", "__pycache__", "*.so", "build", "dist")
"""Compiled modules among them: they would run instead of the changed source."""
SECONDS: Final = 900.0
"""How long tests may take on the tree as it is."""
TIMES: Final = 4.0
LEAST_SECONDS: Final = 20.0
"""A wrong version may make a test wait for minutes, or for ever. It counts as refused once the
tests have taken so many times as long as on the tree as it is, and no less than that."""
KERNELS: Final = "partitiond/planner/kernels/"
"""Compiled code is kept by the file of the function that is called. It does not see that another
file has changed from which that function calls, so that a wrong version needs a cache of its own.
"""
END_SECONDS: Final = 30.0
"""For tests that are interrupted to end what they started."""
FAILED: Final = 1
"""pytest's status when tests ran and some failed. Any other says that they did not run."""


def main(words: Sequence[str]) -> int:
    """Try all; the exit status."""
    chosen = [rule for rule in RULES if all(word.lower() in rule.says.lower() for word in words)]
    accepted = 0
    with tempfile.TemporaryDirectory(prefix="pd-wrong-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for rule in chosen:
            print(rule.says, flush=True)
            tests = sorted({test for wrong in rule.wrong for test in wrong.tests})
            began = time.monotonic()
            fresh = any(wrong.file.startswith(KERNELS) for wrong in rule.wrong)
            status = _run(tree, tests, SECONDS, fresh=fresh)
            seconds = max(LEAST_SECONDS, TIMES * (time.monotonic() - began))
            if status != 0:
                print(f"  the tests do not pass as it is (pytest says {status}): {' '.join(tests)}")
                accepted += 1
                continue
            for number, wrong in enumerate(rule.wrong, 1):
                refused = _refuses(tree, wrong, number, seconds)
                first = next(line.strip() for line in wrong.new.splitlines() or ["(nothing)"])
                print(f"  {'refused ' if refused else 'ACCEPTED'}  {wrong.file}: {first[:70]}")
                sys.stdout.flush()
                accepted += not refused
    print(f"{accepted} accepted" if accepted else "all refused")
    return 1 if accepted else 0


def _refuses(tree: Path, wrong: Wrong, number: int, seconds: float) -> bool:
    file = tree / wrong.file
    right = file.read_text(encoding="utf-8")
    _write(file, right.replace(wrong.old, wrong.new), 2 * number)
    try:
        status = _run(tree, wrong.tests, seconds, fresh=wrong.file.startswith(KERNELS))
    finally:
        _write(file, right, 2 * number + 1)
    if status not in (0, FAILED):
        print(f"  pytest says {status}, so that nothing is known")
    return status == FAILED


def _write(file: Path, text: str, age_seconds: int) -> None:
    """Write with a time of its own: Python takes a source of the same size and second for the one
    that it has compiled.
    """
    file.write_text(text, encoding="utf-8")
    os.utime(file, (1_600_000_000 + age_seconds,) * 2)


def _run(tree: Path, tests: Sequence[str], seconds: float, *, fresh: bool) -> int:
    """pytest's status in the tree, with nothing compiled before where `fresh`."""
    if not fresh:
        return _pytest(tree, tests, seconds, {})
    with tempfile.TemporaryDirectory(prefix="pd-kernels-") as folder:
        return _pytest(tree, tests, seconds, {"NUMBA_CACHE_DIR": folder})


def _pytest(tree: Path, tests: Sequence[str], seconds: float, more: Mapping[str, str]) -> int:
    """pytest's status with more of an environment; FAILED where it does not come to an end."""
    environment = dict(os.environ) | {"PYTHONPATH": str(tree)} | dict(more)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    running = subprocess.Popen(
        [*command, "-m", "not full and not engine and not gpu"],
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(END_SECONDS)
        return FAILED
    finally:
        running.kill()
        running.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
