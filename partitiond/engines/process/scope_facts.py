"""Reads the facts of this host that decide which cgroups engines can have. Changes nothing."""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Final

SUBGROUP: Final = "daemon"
"""`DelegateSubgroup=` of the unit: the daemon's own cgroup, beside its engines' cgroups."""
PROGRAM: Final = "systemd-run"
SEARCH_PATH: Final = "/usr/bin:/bin"


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeFacts:
    """Facts of this host that decide which cgroups engines can have.

    Attributes:
        uid: effective user of the daemon.
        program: systemd-run, or "" if there is none.
        system_manager: whether systemd runs this host.
        user_manager: whether the manager of the daemon's user runs.
        lingers: whether that manager keeps running without a session of the user.
        delegated: folder below which the daemon may make cgroups, or None.
        subgroup: whether the daemon sits beside, and not in, the parent of the engines' cgroups.
    """

    uid: int
    program: str = ""
    system_manager: bool = False
    user_manager: bool = False
    lingers: bool = False
    delegated: Path | None = None
    subgroup: bool = False


def host_facts() -> ScopeFacts:
    """Return the facts of this host, as they are now."""
    uid = os.geteuid()
    delegated, subgroup = delegated_folder()
    return ScopeFacts(
        uid=uid,
        program=shutil.which(PROGRAM, path=SEARCH_PATH) or "",
        system_manager=Path("/run/systemd/system").is_dir(),
        user_manager=_exists(Path(f"/run/user/{uid}/systemd/private")),
        lingers=_exists(Path("/var/lib/systemd/linger") / _user_name(uid)),
        delegated=delegated,
        subgroup=subgroup,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def delegated_folder(proc: Path = Path("/proc/self")) -> tuple[Path | None, bool]:
    """Return the folder below which engines may get cgroups, and whether the daemon sits beside
    them.
    """
    own = own_cgroup(proc)
    if own is None:
        return None, False
    subgroup = own.name == SUBGROUP
    parent = own.parent if subgroup else own
    return (parent, subgroup) if _is_delegated(parent) else (None, False)


def own_cgroup(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the folder of this process's cgroup (version 2), or None if the host has none."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in groups if line.startswith("0::")), None)
    for line in mounts if path is not None else ():
        fields, _, kind = line.partition(" - ")
        if kind.split()[:1] != ["cgroup2"]:
            continue
        root, mounted = fields.split()[3:5]
        below = os.path.relpath(str(path), root)
        if below != ".." and not below.startswith("../"):
            return Path(os.path.normpath(Path(mounted) / below))
    return None


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
