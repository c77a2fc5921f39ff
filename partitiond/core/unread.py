"""Defines a stored body that this version cannot read."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class UnreadBody:
    """A row whose body cannot be read: it is set aside and left unchanged.

    Attributes:
        what: for people: "plan plan-7", "model opt-125m", "key ada".
        problem: which fields are missing or of another form.
    """

    what: str
    problem: str
