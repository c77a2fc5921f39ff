"""Writes the script that stands for `nvidia-cuda-mps-control` and runs `mps_control`."""

import shlex
import sys
from pathlib import Path
from typing import Final

HOST: Final = "PARTITIOND_SIMULATED_HOST"
"""Environment variable with the folder of the simulated host that a program belongs to."""


def write_program(path: Path, host: Path | None = None) -> Path:
    """Write the program for this Python.

    Args:
        path: the script.
        host: folder of the simulated host that it belongs to; None if it stands alone.
    """
    here, python = Path(__file__), shlex.quote(sys.executable)
    query = shlex.quote(str(here.with_name("mps_control.py")))
    belongs = "" if host is None else f"{HOST}={shlex.quote(str(host))} "
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        f"[ $# -gt 0 ] || exec {python} -I -S {query}\n"
        f'PYTHONPATH={shlex.quote(str(here.parents[3]))}"${{PYTHONPATH:+:$PYTHONPATH}}" '
        f'{belongs}exec {python} -m {__package__}.mps_control "$@"\n'
    )
    path.chmod(0o755)
    return path
