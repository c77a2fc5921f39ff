"""Who is being served right now: set by the API for a request, read by the journal.

It goes with the context of the task that serves a request. What only follows from a request (a job
that runs later, an engine that starts) is begun in `alone`, so that nobody is named for it.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_ACTOR: contextvars.ContextVar[str] = contextvars.ContextVar("partitiond_actor", default="")


def current_actor() -> str:
    """Who asked for what happens now; empty where partitiond does it by itself."""
    return _ACTOR.get()


@contextlib.contextmanager
def acting(actor: str) -> Iterator[None]:
    """Everything within is what `actor` asked for."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def alone() -> contextvars.Context:
    """A context in which nobody is named, for a task that outlives what began it."""
    context = contextvars.copy_context()
    context.run(_ACTOR.set, "")
    return context
