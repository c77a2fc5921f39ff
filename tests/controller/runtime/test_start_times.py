"""Observed start times are read from the journal."""

from partitiond.controller.runtime.start_times import start_times
from partitiond.core.events import Event


def at(second: int) -> str:
    return f"2030-01-01T00:00:{second:02}.500Z"


def starting(second: int, name: str, model: str) -> tuple[str, str, str, str]:
    return (at(second), "engine-starting", name, f"starts {model}.")


def ready(second: int, name: str) -> tuple[str, str, str, str]:
    return (at(second), "engine-ready", name, "serves it.")


def test_the_median_from_starting_to_ready_by_model() -> None:
    rows = [
        starting(0, "opt-1.3b-1", "opt-1.3b"),
        starting(1, "b-1", "b"),
        ready(10, "opt-1.3b-1"),
        ready(3, "b-1"),
        starting(20, "opt-1.3b-2", "opt-1.3b"),
        ready(50, "opt-1.3b-2"),
        starting(0, "a-1", "a"),  # what failed, was adopted or is under way does not count
        (at(5), "engine-failed", "a-1", "out of memory"),
        ready(9, "a-1"),
        ready(9, "adopted-1"),
        starting(10, "c-1", "c"),
        starting(9, "d-1", "d"),  # nor a clock that was set back, or a time that is none
        ready(3, "d-1"),
        ("soon", "engine-starting", "e-1", "starts e."),
        ready(3, "e-1"),
    ]
    seen = start_times([Event(n, *row) for n, row in enumerate(rows)])
    assert seen == {"opt-1.3b": 20.0, "b": 2.0}
