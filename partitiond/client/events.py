"""Converts an event filter to a query of GET /events."""

from partitiond.core.events import EventFilter


def filter_query(wanted: EventFilter) -> dict[str, object]:
    """Return the fields of a filter that are set."""
    given: dict[str, object] = {
        "kind": list(wanted.kinds),
        "subject": wanted.subject,
        "actor": wanted.actor,
        "since": wanted.since,
        "until": wanted.until,
        "newest": wanted.newest,
    }
    return {name: value for name, value in given.items() if value}
