"""Profile jobs begin side by side on devices, and none twice."""

import collections
import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.replica import job_slots
from partitiond.core.replica.job_slots import NAMED_MOST, Slots, WaitingJob

ONE_EACH = Slots()
TWO = Slots(per_device=2)


@dataclasses.dataclass
class Shop:
    """Devices of so much room, of which replicas hold some; a job needs a number of it.

    Attributes:
        running: (job, device) of those that run.
    """

    room: Mapping[str, int]
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    running: list[tuple[WaitingJob, str]] = dataclasses.field(default_factory=list)
    asked: int = 0
    host_of: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lease(self, needs: Hashable, device_id: str) -> tuple[str, int] | str:
        self.asked += 1
        assert isinstance(needs, int)
        taken = sum(one.needs for one, there in self.running if there == device_id)  # type: ignore[misc]
        if needs + taken + self.held.get(device_id, 0) > self.room[device_id]:
            return f"waits for {needs} of {device_id}"
        return device_id, needs

    def turn(
        self, queue: list[WaitingJob], slots: Slots = ONE_EACH
    ) -> job_slots.Turn[tuple[str, int]]:
        running = [job_slots.MeasuringJob(job.id, job.work, there) for job, there in self.running]
        return job_slots.next_job(queue, running, slots, self, self.host_of)

    def begin_all(self, queue: list[WaitingJob], slots: Slots = ONE_EACH) -> list[str]:
        """All turns, one after the other; what began leaves the queue."""
        begun = []
        while (turn := self.turn(queue, slots)).lease is not None:
            job = next(one for one in queue if one.id == turn.begins)
            self.running.append((job, turn.lease[0]))
            queue.remove(job)
            begun.append(job.id)
        assert set(turn.waits) == {job.id for job in queue}
        return begun

    def end(self, job_id: str) -> None:
        self.running = [one for one in self.running if one[0].id != job_id]


def job(name: str, *devices: str, needs: int = 4, work: str = "", **more: Any) -> WaitingJob:
    return WaitingJob(name, work or name, needs, devices, **more)


def jobs(count: int, *devices: str, needs: int = 4) -> list[WaitingJob]:
    return [job(f"j{n}", *devices, needs=needs) for n in range(count)]


G = tuple(f"g{n}" for n in range(128))
QUIET = "waits for a quiet time"


def shop(count: int, **held: int) -> Shop:
    return Shop(dict.fromkeys(G[:count], 4), held)


def test_a_host_that_takes_no_further_job_holds_up_no_other_host() -> None:
    here, slots = shop(3), Slots(per_host=1)
    here.host_of = {"g0": "a", "g1": "a", "g2": "b"}
    queue = [job("j0", "g0"), job("j1", "g1"), job("j2", *G[:3]), job("j3", "g2")]
    assert here.begin_all(queue, slots) == ["j0", "j2"]
    both = [*queue[:1], job("j4", *G[:3]), job("j5", "g2")]
    assert here.turn(both, slots).waits == {
        "j1": "waits for j0",  # all hosts are full, and this job is for one of them
        "j4": "waits for j0 or j2",
        "j5": "waits for j2",
    }
    here.end("j2")
    assert here.begin_all(queue, slots) == ["j3"]  # what j1 waits for is on its own host
    # What runs on a device that is gone counts on every host.
    here.running = [(job("j9", "gone"), "gone")]
    found = here.turn([job("j4", "g0"), job("j5", "g2")], slots)
    assert (found.begins, found.waits) == (None, dict.fromkeys(("j4", "j5"), "waits for j9"))
    here.running.append((job("j0", "g0"), "g0"))
    found = here.turn([job("j4", "g1"), job("j5", "g2")], Slots(per_host=2))
    assert (found.begins, found.waits) == ("j5", {"j4": "waits for j9 or j0"})


def test_a_reason_names_few_of_the_jobs() -> None:
    queue, here, slots = jobs(40, *G[:40]), shop(40), Slots(per_host=20)
    running = here.begin_all(queue, slots)
    named = " or ".join(running[:NAMED_MOST])
    assert set(here.turn(queue, slots).waits.values()) == {f"waits for {named} or 12 others"}
    for name in running[NAMED_MOST + 1 :]:
        here.end(name)
    (why,) = set(here.turn(queue, Slots(per_host=NAMED_MOST + 1)).waits.values())
    assert why == f"waits for {' or '.join(running[: NAMED_MOST + 1])}"


@pytest.mark.parametrize(
    ("here", "queue", "slots", "where"),
    [
        (shop(2), jobs(3, "g0", "g1"), ONE_EACH, ["g0", "g1"]),
        (shop(2), jobs(3, "g0", "g1", needs=2), TWO, ["g0", "g1", "g0"]),
        (shop(3), [job("j", *G[:3], first="g2")], ONE_EACH, ["g2"]),
        (shop(3, g2=1), [job("j", *G[:3], first="g2")], ONE_EACH, ["g0"]),
    ],
    ids=["one on each", "spread before they share", "where it was", "elsewhere if full"],
)
def test_a_job_goes_on_where_it_was_if_it_can_and_elsewhere_if_it_cannot(
    here: Shop, queue: list[WaitingJob], slots: Slots, where: list[str]
) -> None:
    here.begin_all(list(queue), slots)
    assert [there for _, there in here.running] == where


def test_a_job_that_fits_nowhere_says_why_and_holds_up_none_behind_it() -> None:
    here = shop(2, g0=1)
    queue = [job("j0", "g0"), *jobs(3, *G[:2])[1:], job("j3", "g1", held_back=QUIET)]
    queue.append(job("j4", *G[:2], work="j1"))
    assert here.begin_all(queue) == ["j1"]
    assert here.turn(queue).waits == {
        "j0": "waits for 4 of g0",
        "j2": "waits for j1, or for 4 of g0",
        "j3": QUIET,
        "j4": "waits for j1, which measures the same",
    }
    everywhere = shop(2, g0=1, g1=1).turn([job("j", *G[:2])])
    assert everywhere.waits == {"j": "waits for 4 of g0; 1 like it have no room either"}


def test_hundreds_of_jobs_that_ask_for_the_same_ask_each_device_once() -> None:
    here = Shop(dict.fromkeys(G, 4), dict.fromkeys(G, 1))
    here.turn(jobs(300, *G))
    assert here.asked == 128


DEVICES = G[:3]
JOBS = st.tuples(
    st.sets(st.sampled_from(DEVICES), min_size=1).map(lambda found: tuple(sorted(found))),
    st.integers(1, 5),
    st.integers(0, 3),
    st.sampled_from(("", *DEVICES)),
)
STEPS = st.lists(st.one_of(JOBS, st.integers(0, 7)), min_size=1, max_size=40)


@settings(max_examples=150)
@given(
    STEPS,
    st.tuples(*[st.integers(0, 3)] * 3),
    st.builds(Slots, st.integers(1, 3), st.integers(1, 5)),
    st.sampled_from(({}, {"g0": "a", "g1": "a", "g2": "b"})),
)
def test_in_any_history_nothing_too_much_runs_and_what_has_room_never_waits(
    steps: list[tuple[tuple[str, ...], int, int, str] | int],
    held: tuple[int, ...],
    slots: Slots,
    host_of: Mapping[str, str],
) -> None:
    here = Shop(dict.fromkeys(DEVICES, 5), dict(zip(DEVICES, held, strict=True)))
    here.host_of = host_of
    queue: list[WaitingJob] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            if step < len(here.running):
                here.end(here.running[step][0].id)
        else:
            devices, needs, work, first = step
            first = first if first in devices else ""
            queue.append(WaitingJob(f"j{number:03}", work, needs, devices, first))
        here.begin_all(queue, slots)
        check_rules(here, queue, slots)


def check_rules(here: Shop, queue: list[WaitingJob], slots: Slots) -> None:
    on = collections.Counter(there for _, there in here.running)
    on_host = collections.Counter(here.host_of.get(there, "") for _, there in here.running)
    assert all(count <= slots.per_host for count in on_host.values())
    assert all(count <= slots.per_device for count in on.values())
    works = [one.work for one, _ in here.running]
    assert len(set(works)) == len(works)
    assert all(there in one.devices for one, there in here.running)
    for device_id in on:
        assert not isinstance(here.lease(0, device_id), str), "more than there is"
    for one in queue:
        for device_id in one.devices:
            full = on[device_id] >= slots.per_device
            full |= on_host[here.host_of.get(device_id, "")] >= slots.per_host
            free = not isinstance(here.lease(one.needs, device_id), str)
            assert one.work in works or full or not free
