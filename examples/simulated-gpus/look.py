"""Watches the tour's daemon.

    look.py EXPRESSION          print what the expression is now
    look.py EXPRESSION WORDS    wait until it is true; WORDS say what is waited for

An expression is Python, and calls the functions below. One process that polls is cheaper than many
processes that each check once.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from partitiond.client.client import ControlClient
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.kinds import Device
from partitiond.core.views.lists import ReplicaView

LOOK_SECONDS = 0.2
LIMIT_SECONDS = 300.0
"""Limit for events that never come: on a busy machine, all others may take long."""


def token() -> str:
    """The daemon's admin token; empty before the daemon has made one."""
    path = Path(os.environ["PARTITIOND_STATE_DIR"], "admin-token")
    return path.read_text("utf-8").strip() if path.exists() else ""


client = ControlClient(
    f"http://127.0.0.1:{os.environ['PARTITIOND_CONTROL__PORT']}", "", reread=token
)


def ready() -> bool:
    """Whether the daemon and its endpoint are ready."""
    try:
        return not client.readiness()
    except PartitiondError:
        return False


def replicas(model: str | None = None) -> Sequence[ReplicaView]:
    """Replicas of a model, or all replicas."""
    return client.replicas(model)


def device(device_id: str) -> Device:
    """The device with that id, or with that index among the GPUs."""
    devices = client.devices()
    return next(d for n, d in enumerate(devices) if device_id in (d.id, str(n)))


def hosts() -> Sequence[HostView]:
    """All hosts of the fleet."""
    return client.hosts()


def host(name: str) -> HostView:
    """The host with that name."""
    return next(host for host in hosts() if host.name == name)


def all_serve() -> bool:
    """Whether every replica serves."""
    return {replica.state for replica in replicas()} == {"serving"}


def replaced(replica_id: str, pid: int) -> bool:
    """Whether another process than `pid` runs the replica, and all replicas serve."""
    pids = {replica.pid for replica in replicas() if replica.replica_id == replica_id}
    return bool(pids - {None, pid}) and all_serve()


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sends(pid: int) -> bool:
    """Whether a process has a network connection, or has ended."""
    try:
        return bool(psutil.Process(pid).net_connections()) or not lives(pid)
    except psutil.Error:  # a zombie's connections cannot be read
        return not lives(pid)


def main(expression: str, words: str = "") -> None:
    """Print the expression's value, or wait until it is true."""
    limit = time.monotonic() + LIMIT_SECONDS
    while not (found := eval(expression)) and words:  # noqa: S307 - the script's own words
        if time.monotonic() > limit:
            sys.exit(f"waited in vain for {LIMIT_SECONDS:.0f} s until {words}")
        time.sleep(LOOK_SECONDS)
    if not words:
        print(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
