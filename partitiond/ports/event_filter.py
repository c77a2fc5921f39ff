"""Which events are asked for."""

import dataclasses
from typing import Final

ANY: Final = "*"
"""At the end of a word it stands for any rest: "plan-*"."""


@dataclasses.dataclass(frozen=True, slots=True)
class EventFilter:
    """Events that fulfil all of it; what is empty asks for nothing.

    Attributes:
        kinds: one of these; a word that ends in "*" stands for all that begin so.
        subject: of this model, replica, job or key; may end in "*".
        actor: that somebody asked for; may end in "*", and "*" is anybody.
        since, until: ISO 8601 UTC; the latter is not included.
        newest: of more than are asked for the newest, and not the next ones after `since`.
    """

    kinds: tuple[str, ...] = ()
    subject: str = ""
    actor: str = ""
    since: str = ""
    until: str = ""
    newest: bool = False


EVERY_EVENT: Final = EventFilter()
