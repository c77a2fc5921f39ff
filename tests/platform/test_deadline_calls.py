"""A look that never ends is abandoned, at the cost of one thread for each subject."""

import asyncio
import dataclasses
import threading

import pytest

from partitiond.core.errors import DeviceError, SilentError
from partitiond.platform.deadline_calls import MAX_WAITING, DeadlineCalls, PendingCall


def threads(subject: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == f"look at {subject}"]


def test_a_look_answers_and_raises_as_its_call_does() -> None:
    looks = DeadlineCalls()
    assert looks.ask("the sum", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        looks.ask("the quotient", lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="the call's own"):
        looks.ask("a slow thing", lambda: raising(TimeoutError("the call's own")))


def raising(error: Exception) -> None:
    raise error


class Hung:
    """A call that hangs until it is released; its look has begun."""

    def __init__(self, looks: DeadlineCalls, seconds: float) -> None:
        self.release, self.begun = threading.Event(), threading.Event()
        self.look = looks.begin("GPU 0", self.call, seconds)
        assert self.begun.wait(60)

    def call(self) -> bool:
        self.begun.set()
        return self.release.wait(60)

    def end(self) -> None:
        """Have it end; its subject is free then."""
        (thread,) = threads("GPU 0")
        self.release.set()
        thread.join(60)


def test_a_call_that_hangs_is_silent_keeps_one_thread_and_is_taken_up_again() -> None:
    looks = DeadlineCalls(60)
    hung = Hung(looks, 0.0)
    with pytest.raises(SilentError, match=r"^GPU 0: silent for 0 s") as raised:
        hung.look.wait()
    assert isinstance(raised.value, DeviceError)
    for _ in range(2 * MAX_WAITING):
        look = looks.begin("GPU 0", hung.call)  # however much time it has itself
        assert look.future.cancelled()  # nobody waits for it, and it never begins
        with pytest.raises(SilentError):
            look.wait()
    assert len(threads("GPU 0")) == 1
    assert looks.ask("GPU 1", lambda: "well") == "well"
    hung.end()
    assert looks.ask("GPU 0", lambda: "back") == "back"


def test_a_hasty_look_waits_for_its_turn_after_a_patient_one_that_is_in_time() -> None:
    looks = DeadlineCalls(60)
    patient = Hung(looks, 60.0)
    hasty = looks.begin("GPU 0", lambda: "its turn", 0.0)
    assert not hasty.future.cancelled()
    patient.end()
    assert hasty.wait() == "its turn"


def test_looks_at_one_subject_take_turns_and_those_given_up_never_begin() -> None:
    looks, release, made = DeadlineCalls(60), threading.Event(), list[str]()
    first = looks.begin("GPU 0", lambda: release.wait(60))
    give_up(looks.begin("GPU 0", lambda: made.append("given up")))
    second = looks.begin("GPU 0", lambda: made.append("second"))
    give_up(looks.begin("GPU 0", lambda: made.append("given up last")))
    assert made == []
    release.set()
    assert first.wait()
    second.wait()
    assert looks.ask("GPU 0", lambda: "still here") == "still here"
    assert made == ["second"]


def give_up(look: PendingCall[None]) -> None:
    """As its asker does once the deadline has passed."""
    assert not look.future.cancelled()
    with pytest.raises(SilentError):
        dataclasses.replace(look, deadline=0.0).wait()


def test_no_more_than_so_many_wait_for_one_subject() -> None:
    looks, release = DeadlineCalls(60), threading.Event()
    looks.begin("GPU 0", lambda: release.wait(60))
    waiting = [looks.begin("GPU 0", lambda: None) for _ in range(MAX_WAITING + 2)]
    assert sum(look.future.cancelled() for look in waiting) in (2, 3)  # the first may have begun
    release.set()
    for look in waiting:
        if not look.future.cancelled():
            look.wait()


async def test_the_event_loop_goes_on_while_a_look_hangs() -> None:
    looks = DeadlineCalls(60)
    hung = Hung(looks, 60.0)
    asking = asyncio.create_task(hung.look.answer())
    left = asyncio.create_task(looks.look("GPU 0", lambda: "nobody hears it"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asking.done()
    left.cancel()  # its asker
    with pytest.raises(asyncio.CancelledError):
        await left
    with pytest.raises(SilentError):
        await dataclasses.replace(hung.look, deadline=0.0).answer()
    hung.release.set()
    assert await asking
    assert await looks.look("GPU 0", lambda: 3) == 3


def test_nothing_is_kept_of_subjects_that_are_looked_at_no_more() -> None:
    looks = DeadlineCalls(60)
    for number in range(20):
        assert looks.ask(f"engine {number}", lambda: "well") == "well"
    for thread in threading.enumerate():
        if thread.name.startswith("look at engine "):
            thread.join(60)
    assert looks._lanes == {}
    assert looks.ask("engine 0", lambda: "again") == "again"
