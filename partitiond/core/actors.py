"""Names the person who asked for a change, as text: "ada@laptop". Pure.

The caller chooses the name: anyone with the admin token can write any name. The name tells
colleagues apart; it proves nothing.
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
    """Return the actor that a caller named.

    Raises:
        InputError: the text is too long, or has characters that no user or host name has.
    """
    if len(text) > MAX_CHARACTERS or not _ACTOR.fullmatch(text):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise InputError(
            f"{HEADER} {shown!r} is no name of an actor.",
            hint=f"Send a name as ada@laptop, of at most {MAX_CHARACTERS} letters, digits and any "
            "of . _ @ + : / \\ -",
        )
    return text


def actor_from(user: str, host: str) -> str:
    """Name a person at a command line; characters that an actor may not have become "_".

    An empty user or host is left out; the name is empty if both are.
    """
    named = "@".join(part for part in (user.strip(), host.strip()) if part)
    return _OTHER.sub("_", named)[:MAX_CHARACTERS]
