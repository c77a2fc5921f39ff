"""Asks systemd, the kernel and partitiond, for the checks that run-under-systemd.sh starts."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from partitiond.client.client import ControlClient
from partitiond.core.errors import PartitiondError
from partitiond.core.views.lists import ReplicaView

T = TypeVar("T")
BIN = Path(sys.executable).parent
CONFIG_FILE = Path("/etc/partitiond/config.toml")
UNIT = "partitiond.service"
STATE = Path("/var/lib/partitiond")
URL = "http://127.0.0.1:8400"
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
        time.sleep(0.25)


def shown(name: str) -> str:
    """A property of the service."""
    return run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()


def main_pid() -> int:
    """The daemon's process."""
    return int(shown("MainPID"))


def client() -> ControlClient:
    """The daemon's API: to ask it costs a thousandth of a command's start."""
    return ControlClient(URL, (STATE / "admin-token").read_text().strip(), timeout=60)


def told(ask: Callable[[ControlClient], T], unless: T) -> T:
    """What the daemon's API answers; `unless` where it does not."""
    try:
        with client() as asked:
            return ask(asked)
    except (OSError, PartitiondError):
        return unless


def ready() -> bool:
    """Whether the daemon answers, and all its parts are ready."""
    return told(lambda asked: not asked.readiness(), unless=False)


def all_serving() -> list[ReplicaView]:
    """The replicas that serve, once the daemon is ready; none before."""

    def serve(asked: ControlClient) -> list[ReplicaView]:
        found = [view for view in asked.replicas() if view.state == "serving"]
        return [] if asked.readiness() else found

    return told(serve, unless=[])


def serving() -> ReplicaView | None:
    """The replica, if the daemon is ready and the replica serves; else None."""
    return next(iter(all_serving()), None)


def engine() -> int:
    """The engine's process, once its replica serves."""
    view = wait_for("a serving replica", serving)
    assert view.pid is not None
    return view.pid


def cgroup(pid: int) -> str:
    """The cgroup (version 2) of a process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def settings(text: str) -> None:
    """Replace the settings file."""
    CONFIG_FILE.write_text(text)
