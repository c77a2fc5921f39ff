"""Decides whether a message reached the machine that it is meant for. Pure.

Names are given by people, and a machine may answer under the name of another one. A host's id is
its own, so a head that knows the id says it in each message. A host of the release before does not
read it; what such a host says of itself in a look is compared by the head.
"""

from partitiond.core.errors import ConflictError


def is_another(expected: str, answers: str) -> bool:
    """Return whether a host with the id `answers` is none of the id `expected`.

    Args:
        expected: empty if any host may answer: a new one, or one asked by a release before.
        answers: empty if the host has none.
    """
    return bool(expected) and answers != expected


def another_host(name: str, expected: str, answers: str) -> ConflictError:
    """Return the refusal of a host that answers under the name of another one."""
    return ConflictError(
        f"another host than the one known as {name} answers under this name.",
        hint=f"If it takes that one's place: `partitiond hosts forget {name}`. Else give it "
        "another name ([host] name) and have it join again.",
        facts={"host": name, "known": expected, "answers": answers},
    )
