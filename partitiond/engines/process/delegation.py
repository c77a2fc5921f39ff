"""Reads which cgroup systemd delegated to this process. Changes nothing."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Final

from partitiond.engines.process import shim

SUBGROUP: Final = "daemon"
"""`DelegateSubgroup=` of the unit: the daemon's own cgroup, beside its engines' cgroups."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delegation:
    """A cgroup below which this process may make cgroups.

    Attributes:
        folder: of the cgroup.
        subgroup: whether this process sits in a cgroup below it, and not in it.
    """

    folder: Path
    subgroup: bool = False


def delegation(proc: Path = Path("/proc/self")) -> Delegation | None:
    """Return what was delegated to this process; None if nothing was."""
    own = own_cgroup(proc)
    if own is None:
        return None
    subgroup = own.name == SUBGROUP
    parent = own.parent if subgroup else own
    return Delegation(parent, subgroup) if _is_delegated(parent) else None


def own_cgroup(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the folder of this process's cgroup (version 2), or None if the host has none."""
    found = shim.own_cgroup(str(proc))
    return Path(found) if found else None


def _is_delegated(folder: Path) -> bool:
    """Return whether systemd delegated this cgroup to us: it marks the cgroup, or our user owns it.

    For root, to whom every cgroup is writable, only the mark counts; for another user it is enough
    that the user owns a service's cgroup (systemd before 251 has no mark that users can read).
    """
    for mark in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return os.access(folder, os.W_OK)
    try:
        owner = folder.stat().st_uid
    except OSError:
        return False
    mine = owner == os.geteuid() != 0 and folder.suffix == ".service"
    return mine and os.access(folder, os.W_OK)
