"""Kernels are compiled even if the result cannot be kept."""

import os
import subprocess
import sys
from pathlib import Path

from partitiond.planner import kernels

TRIPLE = "def triple(x):\n    return 3 * x\n"


def test_without_a_place_for_the_cache_kernels_are_compiled_all_the_same() -> None:
    # Code without a file has no folder beside it, nor a name in another one.
    for make in (kernels.kernel, kernels.plain):
        names: dict[str, object] = {}
        exec(compile(TRIPLE, "<nowhere>", "exec"), names)
        triple = make(names["triple"])  # type: ignore[type-var]
        assert triple(14) == 42  # type: ignore[operator]


def test_a_cache_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(in_the_way / "cache")}
    code = "from partitiond.planner.kernels import branch; print(branch.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("branch")
