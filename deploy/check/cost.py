"""Installs the service under a real systemd and measures what engines of another user cost.

run-under-systemd.sh starts it in the place of checks.py (PROGRAM=cost.py). ENGINE names the
interpreter of a real engine, and MODEL the folder of a model.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from deploy.check import checks

ENGINE, MODEL = Path(os.environ["ENGINE"]), Path(os.environ["MODEL"])


def open_to_everybody(path: Path) -> None:
    """Let other users reach what may lie below a home folder; this is the overlay."""
    for real in (path, path.resolve()):
        for folder in real.parents:
            folder.chmod(folder.stat().st_mode | 0o011)


def main() -> int:
    """Install, and measure as the daemon's user; return the exit status."""
    checks.setup_installs_and_starts()
    open_to_everybody(ENGINE)
    # Not below /var/lib/partitiond, /tmp or a home folder: where a host keeps its own models.
    model = Path("/srv/model")
    shutil.copytree(MODEL, model)
    subprocess.run(["chmod", "-R", "go+rX", str(model)], check=True)
    done = subprocess.run(
        ["systemd-run", "--wait", "--pipe", "--quiet", "--uid=partitiond", "--gid=partitiond",
         "-E", "PARTITIOND_STATE_DIR=/var/lib/partitiond",
         "-E", "PARTITIOND_CACHE_DIR=/var/cache/partitiond",
         "-E", "PARTITIOND_RUN_DIR=/run/partitiond", "-E", "PYTHONDONTWRITEBYTECODE=1",
         f"--working-directory={Path.cwd()}", sys.executable, "-m", "bench.serving.engine_user",
         "--engine", str(ENGINE), "--model", str(model), *os.environ.get("ARGS", "").split()],
        check=False,
    )  # fmt: skip
    if done.returncode == 0:
        print("all checks hold")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
