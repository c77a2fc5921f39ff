"""Says whether a host can run engines as a user of their own, in the sandbox of their unit."""

import re
from pathlib import Path
from typing import Final

from partitiond.cli.setup.host import SetupHost, systemd_version
from partitiond.cli.setup.plan import SERVICE, UNITS
from partitiond.core.errors import DeviceError

SYSTEMD_SINCE: Final = 248
"""The first version whose units know PrivateIPC=, ProtectProc= and the rest of the sandbox."""
KERNEL_SINCE: Final = (5, 14)
"""The first Linux that kills a cgroup at once, by which the daemon ends engines of another user."""


def why_no_engine_user(systemd: int, kernel: tuple[int, int], *, pure_cgroups: bool) -> str:
    """Return why engines cannot run as a user of their own; empty if they can. Pure.

    Args:
        systemd: its version; 0 if there is none.
        kernel: version of Linux.
        pure_cgroups: whether there is only the second version of cgroups.
    """
    if systemd < SYSTEMD_SINCE:
        has = f"systemd {systemd}" if systemd else "no systemd"
        return f"it takes systemd {SYSTEMD_SINCE} or newer, and this host has {has}"
    if kernel < KERNEL_SINCE:
        return "it takes Linux 5.14 or newer, and this host has {}.{}".format(*kernel)
    if not pure_cgroups:
        return (
            "it takes cgroups of version 2 alone, and this host also has version 1 (start it with "
            "systemd.unified_cgroup_hierarchy=1)"
        )
    return ""


def engine_user_problem(host: SetupHost) -> str:
    """Return why engines cannot run as a user of their own on this host; empty if they can.

    An image has no kernel: only its systemd counts.
    """
    systemd = systemd_version(host)
    if not host.live:
        return why_no_engine_user(systemd, KERNEL_SINCE, pure_cgroups=True)
    return why_no_engine_user(
        systemd,
        _kernel(host.file("/proc/sys/kernel/osrelease")),
        pure_cgroups=host.file("/sys/fs/cgroup/cgroup.controllers").exists(),
    )


def service_engine_socket(host: SetupHost) -> Path | None:
    """Return the socket at which the service of this host starts engines; None for none."""
    try:
        text = host.file(f"{UNITS}/{SERVICE}.d/30-engines.conf").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^Environment=PARTITIOND_ENGINE__LAUNCHER=(?:unix://)?(.*)$", text, re.M)
    return Path(found[1]) if found else None


def runs_engine_user(host: SetupHost, *, asked: bool | None) -> tuple[bool, str]:
    """Return whether engines get a user of their own, and why not if nobody decided that.

    Args:
        asked: True if they must have one, False if they must not; None for where the host can.

    Raises:
        DeviceError: they must, and this host cannot.
    """
    if asked is False:
        return False, ""
    problem = engine_user_problem(host)
    if asked and problem:
        raise DeviceError(
            f"engines cannot run as a user of their own here: {problem}.",
            hint="Leave --engine-user and --isolation-group out; engines then run as the daemon's "
            "user.",
        )
    return not problem, problem


def _kernel(file: Path) -> tuple[int, int]:
    try:
        first, second, *_ = file.read_text(encoding="ascii").split(".")
        return int(first), int(second.partition("-")[0])
    except (OSError, ValueError):
        return 0, 0
