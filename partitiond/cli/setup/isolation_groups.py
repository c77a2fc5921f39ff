"""Makes the units and users of isolation groups from those of the default group."""

import re
from typing import Final

from partitiond.cli.setup.host import ENGINE_USER, SetupHost, shipped
from partitiond.core.model.isolation_group import of_group

_NAMES: Final = re.compile(r"\bpartitiond-(?:engine|mps)\b")
"""Matches the names of users, units, sockets and folders that each group has for itself."""


def for_group(text: str, group: str) -> str:
    """Return a unit's text for a group: its own names, and nothing else differs. Pure."""
    return _NAMES.sub(lambda name: of_group(name[0], group), text)


def users_text(group: str) -> str:
    """Return the description of a group's user, for systemd-sysusers."""
    lines = shipped("sysusers.d/partitiond.conf").splitlines(keepends=True)
    return for_group("".join(line for line in lines if f" {ENGINE_USER} " in line), group)


def installed_groups(host: SetupHost, units: str) -> tuple[str, ...]:
    """Return the groups whose sockets were installed on a host, in the folder of its units."""
    names = host.file(units).glob(f"{ENGINE_USER}-*.socket")
    return tuple(sorted(name.stem.removeprefix(f"{ENGINE_USER}-") for name in names))


def group_users(host: SetupHost) -> tuple[str, ...]:
    """Return the users of all groups but the default one that a host has."""
    try:
        lines = host.file("/etc/passwd").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    names = (line.partition(":")[0] for line in lines)
    return tuple(name for name in names if name.startswith(f"{ENGINE_USER}-"))
