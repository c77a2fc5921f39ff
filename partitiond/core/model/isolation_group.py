"""Names isolation groups: the engines of one group run as a system user of their own. Pure.

Groups are the border between tenants. Engines of one group share a user, and with it a compile
cache; engines of different groups share a device at most. The default group has the empty name.
"""

import re
from typing import Final

from partitiond.core.checks import require

_PATTERN: Final = re.compile(r"(?!none$)[a-z][a-z0-9-]{0,11}(?<!-)")
"""Matches a group's name. "none" stands for the default group on the command line and in events.
A user's name may have 32 characters: `partitiond-engine-` takes 18 of them, and 12 are enough."""


def check_isolation_group(group: str) -> None:
    """Raise SpecError if this is no name of a group; the empty one is the default group's."""
    require(
        not group or _PATTERN.fullmatch(group) is not None,
        f"{group!r} is no name of an isolation group.",
        "Use 1 to 12 lower-case letters, digits or '-': a letter first, no '-' last; not 'none'.",
    )


def of_group(name: str, group: str) -> str:
    """Return the name of a group's own user, socket or folder, as `partitiond-engine-blue`."""
    return f"{name}-{group}" if group else name
