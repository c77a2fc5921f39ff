"""Compiles all test files, so that the processes of a run do not all do so at the same time.

pytest rewrites assertions when it first imports a file, which is a third of the time before the
first test of a fresh clone. This uses what pytest itself does, and a pytest that does it in another
way compiles as it runs.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent


def compile_all(root: Path = TESTS) -> None:
    """Compile all test files below a folder that were not compiled since they changed."""
    files = sorted(map(str, root.rglob("test_*.py")), key=os.path.getsize)
    parts = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(parts) as pool:
        pool.map(compile_files, [files[n::parts] for n in range(parts)], chunksize=1)


def compile_files(files: Sequence[str]) -> None:
    """Compile test files, unless this pytest cannot do so."""
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        from _pytest.assertion import AssertionState, rewrite
        from _pytest.config import get_config

        config = get_config()
        config.parse([])
        state = AssertionState(config, "rewrite")
        for file in map(Path, files):
            folder = rewrite.get_cache_dir(file)
            compiled = folder / (file.name[: -len(".py")] + rewrite.PYC_TAIL)
            if rewrite._read_pyc(file, compiled) is None and rewrite.try_makedirs(folder):
                stat, code = rewrite._rewrite_test(file, config)
                rewrite._write_pyc(state, code, stat, compiled)


if __name__ == "__main__":
    compile_all()
