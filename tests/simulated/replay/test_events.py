import functools

from partitiond.simulated.replay.events import SimulatedClock


def test_events_run_in_the_order_of_their_times_and_equal_ones_as_planned() -> None:
    clock = SimulatedClock()
    seen: list[tuple[float, str]] = []

    def note(name: str) -> None:
        seen.append((clock.now, name))

    for when, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        clock.at(when, functools.partial(note, name))
    clock.run(1.5)
    assert seen == [(1.0, "first"), (1.0, "second")]
    assert clock.now == 1.5
    clock.run(3.0)
    assert seen[-1] == (2.0, "late")


def test_an_event_in_the_past_is_due_now() -> None:
    clock = SimulatedClock()
    seen: list[float] = []
    clock.run(5.0)
    clock.at(1.0, lambda: seen.append(clock.now))
    clock.run(5.0)
    assert seen == [5.0]
