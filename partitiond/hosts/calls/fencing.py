"""Decides which control plane a host obeys: its agent, or the run folder of the own host. Pure.

Names of hosts are given by people, and a machine may answer under the name of another one. A host's
id is its own, so a head that knows the id says it in each message.
"""

import dataclasses
import enum
from typing import Final

from partitiond.core.errors import ConflictError, FencedError


@dataclasses.dataclass(frozen=True, slots=True)
class HeadSession:
    """A daemon that gives orders to the agents of other hosts.

    Attributes:
        id: the head's own, made at its first start; a take-over makes a new one.
        epoch: grows by each take-over, and only so.
        start: number of this start of the daemon, kept in its store before it orders anything.
        session: drawn at this start. Tells daemons apart of which one runs on a copy of the other's
            state folder, so that both count the same starts.
    """

    id: str
    epoch: int
    start: int
    session: str


NO_HEAD: Final = HeadSession("", 0, 0, "")
"""A control plane that was never the head of other hosts."""


class Obedience(enum.Enum):
    """What an agent does with an order."""

    OBEY = enum.auto()
    ADOPT = enum.auto()
    """Keep the new head first, then end what the former one ordered, then obey."""
    REFUSE = enum.auto()


def obedience(obeyed: HeadSession | None, asks: HeadSession) -> Obedience:
    """Return what an agent does that obeyed one head so far, and is asked by this one.

    A higher epoch wins, and of the same head a later start. Equals do not: whoever came first is
    obeyed. So of two daemons no more than one is obeyed by an agent, and one that was overtaken is
    obeyed again only after a start of its own or a take-over.
    """
    if obeyed is None or asks.epoch > obeyed.epoch:
        return Obedience.ADOPT
    if asks.epoch < obeyed.epoch or asks.id != obeyed.id:
        return Obedience.REFUSE
    if asks.start == obeyed.start:
        return Obedience.OBEY if asks.session == obeyed.session else Obedience.REFUSE
    return Obedience.ADOPT if asks.start > obeyed.start else Obedience.REFUSE


def has_overtaken(obeyed: HeadSession, asks: HeadSession) -> bool:
    """Return whether a head was overtaken by the one that a host of its own obeys and that refuses
    it: one of a higher epoch, or a later start of the same head, as after the restore of a backup.

    A host that obeys another head of the same epoch was taken into another fleet, which says
    nothing of this one.
    """
    refuses = obedience(obeyed, asks) is Obedience.REFUSE
    return refuses and (obeyed.epoch > asks.epoch or obeyed.id == asks.id)


def other_words(obeyed: HeadSession, asks: HeadSession) -> str:
    """Return what the head that is obeyed is to the one that asks, in words."""
    if (asks.id, asks.epoch) == (obeyed.id, obeyed.epoch):
        return "a later start of this control plane, or a copy of it"
    return f"another control plane, of epoch {obeyed.epoch}"


def fenced(host: str, obeyed: HeadSession, asks: HeadSession) -> FencedError:
    """Return the refusal of an order."""
    return FencedError(
        f"the host {host} obeys {other_words(obeyed, asks)}.",
        hint="End one of the two; `partitiond hosts --take-over` makes this one the head.",
        facts={"host": host, "head": obeyed.id, "epoch": obeyed.epoch, "start": obeyed.start},
    )


def obeyed_by(refusal: FencedError) -> HeadSession | None:
    """Return the head that a refusal names, but for its session; None if it names none."""
    head, epoch, start = (refusal.facts.get(name) for name in ("head", "epoch", "start"))
    if isinstance(head, str) and isinstance(epoch, int) and isinstance(start, int):
        return HeadSession(head, epoch, start, "")
    return None


def another_host(name: str, expected: str, answers: str) -> ConflictError:
    """Return the refusal of a message by a host of another id than the message is for."""
    return ConflictError(
        f"another host than the one known as {name} answers under this name.",
        hint=f"If it takes that one's place: `partitiond hosts --forget {name}`. Else give it "
        "another name ([host] name) and have it join again.",
        facts={"host": name, "known": expected, "answers": answers},
    )
