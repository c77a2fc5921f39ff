"""Profile jobs begin side by side on devices, none twice, and none starves."""

import collections
import dataclasses
import itertools
from collections.abc import Hashable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.replica.job_slots import (
    MOST_PASSED,
    NAMED_MOST,
    MeasuringJob,
    Slots,
    Turn,
    WaitingJob,
    next_job,
)


@dataclasses.dataclass
class Shop:
    """Devices of so much room, of which replicas hold some; a job needs a number of it.

    Attributes:
        running: (job, device, need) of those that run.
    """

    room: Mapping[str, int]
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    running: list[tuple[WaitingJob, str, int]] = dataclasses.field(default_factory=list)
    asked: int = 0
    host_of: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lease(self, needs: Hashable, device_id: str) -> tuple[str, int] | str:
        self.asked += 1
        assert isinstance(needs, int)
        taken = sum(need for _, there, need in self.running if there == device_id)
        if needs + taken + self.held.get(device_id, 0) > self.room[device_id]:
            return f"waits for {needs} of {device_id}"
        return device_id, needs

    def fits_without_jobs(self, needs: Hashable, device_id: str) -> bool:
        assert isinstance(needs, int)
        return needs + self.held.get(device_id, 0) <= self.room[device_id]

    def turn(self, queue: list[WaitingJob], slots: Slots) -> Turn[tuple[str, int]]:
        running = [MeasuringJob(job.id, job.work, there) for job, there, _ in self.running]
        return next_job(queue, running, slots, self, self.host_of)

    def begin(self, queue: list[WaitingJob], slots: Slots) -> str | None:
        """One turn, done: the job leaves the queue, and those passed over are counted."""
        turn = self.turn(queue, slots)
        if turn.begins is None or turn.lease is None:
            assert set(turn.waits) == {job.id for job in queue}
            return None
        job = next(one for one in queue if one.id == turn.begins)
        self.running.append((job, *turn.lease))
        queue.remove(job)
        for at, one in enumerate(queue):
            if one.id in turn.passed:
                queue[at] = dataclasses.replace(one, passed=one.passed + 1)
        return job.id

    def begin_all(self, queue: list[WaitingJob], slots: Slots) -> list[str]:
        begun = []
        while (name := self.begin(queue, slots)) is not None:
            begun.append(name)
        return begun

    def end(self, job_id: str) -> None:
        self.running = [one for one in self.running if one[0].id != job_id]


def job(name: str, *devices: str, needs: int = 4, work: str = "", first: str = "") -> WaitingJob:
    return WaitingJob(name, work or name, needs, devices, first)


def gpus(count: int) -> tuple[str, ...]:
    return tuple(f"g{n}" for n in range(count))


def shop(count: int, room: int = 4, **held: int) -> Shop:
    return Shop(dict.fromkeys(gpus(count), room), held)


def test_new_models_are_measured_on_as_many_devices_at_a_time_as_there_are() -> None:
    here, queue = shop(3), [job(f"j{n}", *gpus(3)) for n in range(5)]
    assert here.begin_all(queue, Slots()) == ["j0", "j1", "j2"]
    assert {there for _, there, _ in here.running} == set(gpus(3))
    assert here.turn(queue, Slots()).waits["j3"] == "waits for j0 or j1 or j2"
    here.end("j1")
    assert here.begin_all(queue, Slots()) == ["j3"]
    assert here.running[-1][1] == "g1"


def test_a_host_bounds_what_runs_on_all_its_devices() -> None:
    here, queue = shop(8), [job(f"j{n}", *gpus(8)) for n in range(8)]
    queue[7] = dataclasses.replace(queue[7], held_back="waits for a quiet time")
    assert len(here.begin_all(queue, Slots(per_host=3))) == 3
    assert here.turn(queue, Slots(per_host=3)).waits == {
        **{f"j{n}": "waits for j0 or j1 or j2" for n in range(3, 7)},
        "j7": "waits for a quiet time",
    }


def test_a_host_that_takes_no_further_job_holds_up_no_other_host() -> None:
    here = shop(3)
    here.host_of = {"g0": "a", "g1": "a", "g2": "b"}
    slots = Slots(per_host=1)
    queue = [job("j0", "g0"), job("j1", "g1"), job("j2", *gpus(3)), job("j3", "g2")]
    assert here.begin_all(queue, slots) == ["j0", "j2"]
    both = [*queue[:1], job("j4", *gpus(3)), job("j5", "g2")]
    assert here.turn(both, slots).waits == {
        "j1": "waits for j0",  # all hosts are full, and this job is for one of them
        "j4": "waits for j0 or j2",
        "j5": "waits for j2",
    }
    here.end("j2")
    queue[0] = dataclasses.replace(queue[0], passed=MOST_PASSED)
    assert here.begin_all(queue, slots) == ["j3"]  # what j1 waits for is on its own host
    # What runs on a device that is gone counts on every host.
    here.running = [(job("j9", "gone"), "gone", 4)]
    found = here.turn([job("j4", "g0"), job("j5", "g2")], slots)
    assert (found.begins, found.waits) == (None, dict.fromkeys(("j4", "j5"), "waits for j9"))
    here.running.append((job("j0", "g0"), "g0", 4))
    found = here.turn([job("j4", "g1"), job("j5", "g2")], Slots(per_host=2))
    assert (found.begins, found.waits) == ("j5", {"j4": "waits for j9 or j0"})


def test_each_of_many_hosts_has_all_its_slots_and_a_reason_names_few_of_the_jobs() -> None:
    devices, slots = gpus(40), Slots(per_host=2)
    here = shop(40)
    here.host_of = {name: f"h{number % 10}" for number, name in enumerate(devices)}
    queue = [job(f"j{n:02}", *devices) for n in range(40)]
    assert len(here.begin_all(queue, slots)) == 20
    per_host = collections.Counter(here.host_of[there] for _, there, _ in here.running)
    assert set(per_host.values()) == {2}
    running = [one.id for one, _, _ in here.running]
    named = " or ".join(running[:NAMED_MOST])
    assert set(here.turn(queue, slots).waits.values()) == {f"waits for {named} or 12 others"}
    for name in running[NAMED_MOST + 1 :]:
        here.end(name)
    here.host_of = dict.fromkeys(devices, "h")
    every = " or ".join(running[: NAMED_MOST + 1])
    (why,) = set(here.turn(queue, Slots(per_host=NAMED_MOST + 1)).waits.values())
    assert why == f"waits for {every}"


def test_a_device_has_as_many_slots_as_it_is_given_where_there_is_room() -> None:
    queue = [job(f"j{n}", "g0", needs=1) for n in range(4)]
    assert len(shop(1).begin_all(list(queue), Slots(per_device=1))) == 1
    assert len(shop(1).begin_all(list(queue), Slots(per_device=3))) == 3
    assert len(shop(1, room=2).begin_all(list(queue), Slots(per_device=3))) == 2


def test_jobs_spread_over_devices_before_they_share_one() -> None:
    here, queue = shop(2), [job(f"j{n}", *gpus(2), needs=1) for n in range(2)]
    here.begin_all(queue, Slots(per_device=2))
    assert [there for _, there, _ in here.running] == ["g0", "g1"]


def test_a_job_goes_on_where_it_was_if_it_can_and_elsewhere_if_it_cannot() -> None:
    there = job("j", *gpus(3), first="g2")
    free = shop(3)
    free.begin_all([there], Slots())
    assert free.running[0][1] == "g2"
    full = shop(3, g2=1)
    full.begin_all([there], Slots())
    assert full.running[0][1] == "g0"
    shared = shop(3)
    shared.begin_all([job("i", "g2", needs=1)], Slots())
    shared.begin_all([job("j", *gpus(3), needs=1, first="g2")], Slots(per_device=2))
    assert shared.running[1][1] == "g2"


def test_the_same_is_never_measured_twice_at_a_time() -> None:
    here = shop(2)
    queue = [job("j0", *gpus(2), work="a"), job("j1", *gpus(2), work="a"), job("j2", *gpus(2))]
    assert here.begin_all(queue, Slots()) == ["j0", "j2"]
    assert here.turn(queue, Slots()).waits == {"j1": "waits for j0, which measures the same"}
    here.end("j0")
    assert here.begin_all(queue, Slots()) == ["j1"]


def test_a_job_that_fits_nowhere_says_why_and_holds_up_none_behind_it() -> None:
    here = shop(2, g0=1)
    queue = [job("j0", "g0"), job("j1", *gpus(2)), job("j2", *gpus(2))]
    queue.append(dataclasses.replace(job("j3", "g1"), held_back="waits for a quiet time"))
    assert here.begin_all(queue, Slots()) == ["j1"]
    assert here.turn(queue, Slots()).waits == {
        "j0": "waits for 4 of g0",
        "j2": "waits for j1, or for 4 of g0",
        "j3": "waits for a quiet time",
    }
    everywhere = shop(2, g0=1, g1=1).turn([job("j", *gpus(2))], Slots())
    assert everywhere.waits == {"j": "waits for 4 of g0; 1 like it have no room either"}


def test_small_jobs_do_not_keep_a_large_one_waiting_for_ever() -> None:
    here, slots = shop(1), Slots(per_device=2)
    here.begin_all([job("s0", "g0", needs=1)], slots)
    queue, begun = [job("large", "g0")], 0
    for n in range(1, 100):
        queue.append(job(f"s{n}", "g0", needs=1))
        begun += len(here.begin_all(queue, slots))
        here.end(here.running[0][0].id)
        if here.begin(queue, slots) == "large":
            break
        begun += len(here.begin_all(queue, slots))
    assert begun == MOST_PASSED
    assert [one.id for one, _, _ in here.running] == ["large"]


def test_a_job_that_is_passed_over_no_more_keeps_only_its_own_devices() -> None:
    here, slots = shop(2), Slots(per_device=2)
    here.begin_all([job("s0", "g0", needs=1)], slots)
    large = dataclasses.replace(job("large", "g0"), passed=MOST_PASSED)
    queue = [large, job("s1", "g0", needs=1), job("s2", *gpus(2), needs=1)]
    assert here.begin_all(queue, slots) == ["s2"]
    assert here.running[-1][1] == "g1"
    assert here.turn(queue, slots).waits["s1"] == (
        f"waits for large and s0: large was passed over {MOST_PASSED} times"
    )


def test_a_job_is_passed_over_only_by_those_that_take_what_it_could_have() -> None:
    here, slots = shop(3), Slots(per_device=2)
    here.begin_all([job("s0", "g0", needs=1)], slots)
    queue = [job("large", "g0"), dataclasses.replace(job("core", "g0"), also=("g1",))]
    assert here.turn([*queue, job("s1", "g2", needs=1)], slots).passed == ()
    assert here.turn([*queue, job("s1", "g1", needs=1)], slots).passed == ("core",)
    assert here.turn([*queue, job("s1", "g0", needs=1)], slots).passed == ("large", "core")


def test_a_job_that_waits_for_replicas_bars_nobody() -> None:
    here, slots = shop(1, g0=2), Slots(per_device=2)
    here.begin_all([job("s0", "g0", needs=1)], slots)
    large = dataclasses.replace(job("large", "g0"), passed=MOST_PASSED)
    assert here.begin_all([large, job("s1", "g0", needs=1)], slots) == ["s1"]


def test_cores_that_jobs_elsewhere_hold_are_kept_for_a_job_that_needs_them() -> None:
    here, slots = shop(2), Slots()
    large = dataclasses.replace(job("large", "g0"), also=("g1",), passed=MOST_PASSED)
    here.begin_all([job("s0", "g0", needs=1)], slots)
    assert here.begin_all([large, job("s1", "g1", needs=1)], slots) == []


def test_hundreds_of_jobs_that_ask_for_the_same_ask_each_device_once() -> None:
    devices = gpus(128)
    here = Shop(dict.fromkeys(devices, 4), dict.fromkeys(devices, 1))
    here.turn([job(f"j{n}", *devices) for n in range(300)], Slots())
    assert here.asked == 128


DEVICES = gpus(3)
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
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from(({}, {"g0": "a", "g1": "a", "g2": "b"})),
)
def test_in_any_history_the_rules_hold(
    steps: list[tuple[tuple[str, ...], int, int, str] | int],
    held: tuple[int, ...],
    per_device: int,
    per_host: int,
    host_of: Mapping[str, str],
) -> None:
    slots = Slots(per_device, per_host)
    here = Shop(dict.fromkeys(DEVICES, 5), dict(zip(DEVICES, held, strict=True)))
    here.host_of = host_of
    queue: list[WaitingJob] = []
    passed: collections.Counter[str] = collections.Counter()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            if step < len(here.running):
                here.end(here.running[step][0].id)
        else:
            devices, needs, work, first = step
            first = first if first in devices else ""
            queue.append(WaitingJob(f"j{number:03}", work, needs, devices, first))
        before = list(queue)
        while (name := here.begin(queue, slots)) is not None:
            there = here.running[-1][1]
            for one in itertools.takewhile(lambda one: one.id != name, before):
                busy = any(other.work == one.work for other, _, _ in here.running[:-1])
                if there in one.devices and not busy:
                    passed[one.id] += here.fits_without_jobs(one.needs, there)
            before = list(queue)
        check_rules(here, queue, slots)
    assert all(count <= MOST_PASSED for count in passed.values())


def check_rules(here: Shop, queue: list[WaitingJob], slots: Slots) -> None:
    """Nothing too much runs, and whoever waits has a reason."""
    running = here.running
    on = collections.Counter(there for _, there, _ in running)
    on_host = collections.Counter(here.host_of.get(there, "") for _, there, _ in running)
    assert all(count <= slots.per_host for count in on_host.values())
    assert all(count <= slots.per_device for count in on.values())
    works = [one.work for one, _, _ in running]
    assert len(set(works)) == len(works)
    for device_id in DEVICES:
        taken = sum(need for _, there, need in running if there == device_id)
        assert taken == 0 or taken + here.held[device_id] <= here.room[device_id]
    assert all(there in one.devices for one, there, _ in running)
    barred: set[str] = set()
    for one in queue:
        could = {d for d in one.devices if here.fits_without_jobs(one.needs, d)}
        if one.work not in works:
            for device_id in set(one.devices) - barred:
                host_full = on_host[here.host_of.get(device_id, "")] >= slots.per_host
                full = host_full or on[device_id] >= slots.per_device
                assert full or isinstance(here.lease(one.needs, device_id), str)
            if one.passed >= MOST_PASSED:
                barred |= could
