"""Defines the journal's events, and which of them a caller asks for."""

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and why, kept in the store.

    Attributes:
        id: grows by one.
        kind: "model-registered", "plan-applied", "engine-exited", ...
        subject: model, replica, job or key it is about.
        actor: who asked for it, as "ada@laptop"; empty where partitiond did it by itself.
    """

    id: int
    at: str
    kind: str
    subject: str
    message: str
    actor: str = ""


ANY: Final = "*"
"""At the end of a word it stands for any rest: "plan-*"."""


@dataclasses.dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events that meet all conditions; an empty field sets no condition.

    Attributes:
        kinds: the kind is one of these; a word that ends in "*" stands for all that begin so.
        subject: the model, replica, job or key that the event is about; may end in "*".
        actor: who asked for what happened; may end in "*", and "*" is any actor.
        since, until: ISO 8601 UTC; the latter is not included.
        newest: if more events match than are asked for, the newest instead of the oldest.
    """

    kinds: tuple[str, ...] = ()
    subject: str = ""
    actor: str = ""
    since: str = ""
    until: str = ""
    newest: bool = False


EVERY_EVENT: Final = EventFilter()
