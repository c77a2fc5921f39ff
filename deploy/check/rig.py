"""Asks systemd, the kernel and partitiond, for the checks that run-under-systemd.sh starts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
BIN = Path(sys.executable).parent
CONFIG_FILE = Path("/etc/partitiond/config.toml")
UNIT = "partitiond.service"
STATE = Path("/var/lib/partitiond")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(*words: str, code: int | None = 0, env: dict[str, str] | None = None) -> str:
    """A command's output; any other than the expected exit status ends the checks."""
    done = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
        env={"PATH": SYSTEM_PATH, "COLUMNS": "200", **(env or {})},
    )
    if code is not None and done.returncode != code:
        raise AssertionError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def partitiond(*words: str, code: int | None = 0) -> str:
    """A `partitiond` command, as root, on the service's state folder."""
    state = {"PARTITIOND_STATE_DIR": str(STATE), "PARTITIOND_CACHE_DIR": "/var/cache/partitiond"}
    return run(str(BIN / "partitiond"), *words, code=code, env=state)


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 240) -> T:
    """Poll until `look` returns a true value."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.1)


def shown(name: str) -> str:
    """A property of the service."""
    return run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()


def main_pid() -> int:
    """The daemon's process."""
    return int(shown("MainPID"))


def serving() -> dict[str, Any] | None:
    """The replica, if the daemon answers and the replica serves; else None."""
    try:
        told = json.loads(partitiond("status", "--json", code=None) or "{}")
    except ValueError:
        return None
    found = [r for r in told.get("replicas", []) if r["state"] == "serving"]
    return found[0] if found and not told["not_ready"] else None


def engine() -> int:
    """The engine's process, once its replica serves."""
    return int(wait_for("a serving replica", serving)["pid"])


def cgroup(pid: int) -> str:
    """The cgroup (version 2) of a process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def settings(text: str) -> None:
    """Replace the settings file."""
    CONFIG_FILE.write_text(text)
