"""Who asked for a change, as text: "ada@laptop". Pure.

It is what the caller says of itself: whoever has the admin token can write any name. It tells
people apart who work together, and is no proof of anything.
"""

import re
from typing import Final

from partitiond.core.errors import InputError

HEADER: Final = "X-Partitiond-Actor"
MAX_CHARACTERS: Final = 100
_ALLOWED: Final = r"A-Za-z0-9._@+:/\\-"
_ACTOR: Final = re.compile(rf"[{_ALLOWED}]+")
_OTHER: Final = re.compile(rf"[^{_ALLOWED}]")


def actor_of(text: str) -> str:
    """The actor that a caller named.

    Raises:
        InputError: it is too long, or has characters that no user or host name has.
    """
    if len(text) > MAX_CHARACTERS or not _ACTOR.fullmatch(text):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise InputError(
            f"{HEADER} {shown!r} names nobody.",
            hint=f"Send a name as ada@laptop, of at most {MAX_CHARACTERS} letters, digits and any "
            "of . _ @ + : / \\ -",
        )
    return text


def actor_from(user: str, host: str) -> str:
    """Who a person at a command line is; what no actor may hold is replaced.

    Empty parts are left out; empty where both are.
    """
    named = "@".join(part for part in (user.strip(), host.strip()) if part)
    return _OTHER.sub("_", named)[:MAX_CHARACTERS]
