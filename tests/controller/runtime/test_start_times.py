"""Observed start times are read from the journal."""

from partitiond.controller.runtime.start_times import start_times
from partitiond.core.events import Event


def events(*rows: tuple[str, str, str, str]) -> list[Event]:
    return [Event(n, *row) for n, row in enumerate(rows)]


def at(second: int) -> str:
    return f"2030-01-01T00:00:{second:02}.500Z"


def starting(second: int, name: str, model: str) -> tuple[str, str, str, str]:
    return (at(second), "engine-starting", name, f"starts {model}.")


def ready(second: int, name: str) -> tuple[str, str, str, str]:
    return (at(second), "engine-ready", name, "serves it.")


def test_the_median_from_starting_to_ready_by_model() -> None:
    seen = start_times(
        events(
            starting(0, "opt-1.3b-1", "opt-1.3b"),
            starting(1, "b-1", "b"),
            ready(10, "opt-1.3b-1"),
            ready(3, "b-1"),
            starting(20, "opt-1.3b-2", "opt-1.3b"),
            ready(50, "opt-1.3b-2"),
        )
    )
    assert seen == {"opt-1.3b": 20.0, "b": 2.0}


def test_what_failed_what_was_adopted_and_what_is_under_way_do_not_count() -> None:
    seen = start_times(
        events(
            starting(0, "a-1", "a"),
            (at(5), "engine-failed", "a-1", "out of memory"),
            ready(9, "a-1"),
            ready(9, "adopted-1"),
            starting(10, "c-1", "c"),
        )
    )
    assert seen == {}


def test_a_clock_that_was_set_back_or_a_time_that_is_none_does_not_count() -> None:
    assert start_times(events(starting(9, "a-1", "a"), ready(3, "a-1"))) == {}
    rows = [("soon", "engine-starting", "a-1", "starts a."), ready(3, "a-1")]
    assert start_times(events(*rows)) == {}
