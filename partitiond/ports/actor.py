"""Holds the actor of the request being served: the API sets it, the journal reads it.

The actor belongs to the context of the task that serves a request. Work that only follows from a
request (a job that runs later, an engine that starts) begins in `alone`, so that it has no actor.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_ACTOR: contextvars.ContextVar[str] = contextvars.ContextVar("partitiond_actor", default="")


def current_actor() -> str:
    """Return the actor who asked for what happens now; empty if partitiond acts by itself."""
    return _ACTOR.get()


@contextlib.contextmanager
def acting(actor: str) -> Iterator[None]:
    """Make `actor` the one who asked for everything in the block."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def alone() -> contextvars.Context:
    """Return a context without an actor, for a task that outlives what began it."""
    context = contextvars.copy_context()
    context.run(_ACTOR.set, "")
    return context
