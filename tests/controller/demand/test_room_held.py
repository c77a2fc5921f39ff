"""Room is held, needed and freed of devices and of hosts, and what is lent to jobs is not free."""

import dataclasses
import math

import pytest

from partitiond.controller.demand import room_held
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.replica.step_down import Resident, Room, RoomNeed, Waiter, readiness
from partitiond.core.units import GIB, Bytes
from tests.controller.plans.test_sleepers import engine_in
from tests.controller.samples import cpu, placement
from tests.devices.fake import fake_gpus

SHARE = MpsShare("gpu-0", Bytes(10 * GIB), 20)
SLICE = MigSlice("gpu-0", Bytes(10 * GIB), "1g.10gb", 0, 1)
PLACES = {"gpu-0": "cpu", "cpu": "cpu"}
MEASURED = SleepingFootprint(Bytes(2 * GIB), Bytes(GIB))


def on(partition: Partition, asleep: SleepingFootprint | None = MEASURED) -> Placement:
    base = placement("a-1", [0])
    candidate = dataclasses.replace(base.candidate, asleep=asleep)
    return dataclasses.replace(base, partition=partition, candidate=candidate)


def steps(placed: list[Placement], *, can_sleep: bool) -> list[int]:
    awake = placed if can_sleep else []
    holds = room_held.rooms_of(placed[0], 0, PLACES) if placed else {}
    found = room_held.steps_of(holds, awake, PLACES, stop_seconds=30.0, wake_seconds=2.0)
    return [step.level for step in found]


@pytest.mark.parametrize(
    ("placed", "levels"),
    [
        (on(SHARE), [1, STOPPED]),
        (on(SLICE), [STOPPED]),  # it stays taken under an engine asleep
        (dataclasses.replace(on(SHARE, None), partition=SHARE), [1, STOPPED]),  # its SMs come free
        (placement("a-1", [0]), [1, STOPPED]),  # its core comes free
    ],
)
def test_a_model_sleeps_only_where_that_frees_room(placed: Placement, levels: list[int]) -> None:
    assert steps([placed], can_sleep=True) == levels
    assert steps([placed], can_sleep=False) == [STOPPED]


def test_what_is_gone_already_frees_nothing_asleep() -> None:
    assert steps([], can_sleep=True) == [STOPPED]


def test_weights_asleep_are_held_of_the_host_and_come_back_when_it_stops() -> None:
    placed = on(SHARE, SleepingFootprint(Bytes(2 * GIB), Bytes(GIB), Bytes(5 * GIB)))
    candidate = dataclasses.replace(placed.candidate, host_memory_bytes=Bytes(GIB))
    placed = dataclasses.replace(placed, candidate=candidate)
    holds = room_held.rooms_of(placed, 0, PLACES)
    sleep, stop = room_held.steps_of(holds, [placed], PLACES, stop_seconds=30.0, wake_seconds=2.0)
    assert (sleep.on("gpu-0"), sleep.on("cpu")) == (Room(8 * GIB, 20), Room(-5 * GIB))
    assert (stop.on("gpu-0"), stop.on("cpu")) == (Room(10 * GIB, 20), Room(GIB))
    asleep = room_held.rooms_of(placed, 1, PLACES)
    assert asleep == {"gpu-0": Room(2 * GIB), "cpu": Room(6 * GIB)}
    back = room_held.need_of(placed, 1, PLACES)
    assert dict(back.takes) == {"gpu-0": Room(8 * GIB, 20), "cpu": Room(-5 * GIB)}


@pytest.mark.parametrize(("host", "level"), [(5 * GIB, 1), (5 * GIB - 1, STOPPED), (-1, STOPPED)])
def test_one_more_steps_down_within_the_memory_of_its_host(host: int, level: int) -> None:
    placed = on(SHARE, SleepingFootprint(Bytes(2 * GIB), Bytes(GIB), Bytes(5 * GIB)))
    holds = room_held.rooms_of(placed, 0, PLACES)
    own = room_held.steps_of(holds, [placed], PLACES, stop_seconds=30.0, wake_seconds=2.0)
    free = {"gpu-0": Room(3 * GIB), "cpu": Room(host)}
    needs = room_held.one_byte_more([RoomNeed((("gpu-0", Room(GIB)),))], free)
    there = [Resident("a", 60.0, 0.1, math.inf, 20.0, own)]
    (grant,) = readiness([Waiter("new", needs, 0.0, 20.0)], there, free).granted
    assert [(model, step.level) for model, step in grant.steps] == [("a", level)]


def test_a_stop_is_never_free() -> None:
    (stop,) = room_held.steps_of({}, [], PLACES, stop_seconds=-1.5, wake_seconds=2.0)
    assert stop.wait_seconds > 0


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (ReplicaState.SERVING, 0),
        (ReplicaState.WAKING, 0),
        (ReplicaState.SLEEPING, 1),
        (ReplicaState.DRAINING, STOPPED),
        (ReplicaState.STOPPING, STOPPED),
    ],
)
async def test_an_engine_that_ends_holds_nothing_that_it_could_give_up(
    state: ReplicaState, level: int
) -> None:
    engine = engine_in(state)
    assert room_held.level_held(engine) == level
    assert bool(room_held.held_by_model([], [engine], {}, PLACES)) == (level != STOPPED)


def test_a_profile_job_leaves_what_a_plan_could_place_beside_it() -> None:
    gpu = fake_gpus("a100-80gb")[0]
    known = {gpu.id: 70 * GIB, "cpu": 20 * GIB}
    cores = CpuCores("cpu", Bytes(4 * GIB), (0,))
    free = room_held.free_room([gpu, cpu(4)], known, {}, [], [cores])
    assert free["cpu"] == Room(16 * GIB, 3)
    assert free[gpu.id].memory_bytes == 70 * GIB
    alone = MemoryShare(gpu.id, Bytes(GIB))
    assert room_held.free_room([gpu], known, {}, [], [alone])[gpu.id].memory_bytes < 0
    share = MpsShare(gpu.id, Bytes(10 * GIB), 30)
    assert room_held.free_room([gpu], known, {}, [], [share])[gpu.id] == Room(60 * GIB, 70)


def test_host_memory_that_no_cpu_device_tells_is_a_room_of_its_own() -> None:
    gpu = fake_gpus("a100-80gb")[0]
    place = room_held.host_places([gpu])[gpu.id]
    taken: list[room_held.Rooms] = [{place: Room(3 * GIB)}]
    assert room_held.free_room([gpu], {}, {gpu.host: 9 * GIB}, taken, [])[place] == Room(6 * GIB)
    assert room_held.free_room([gpu], {}, {}, taken, [])[place].memory_bytes > 1 << 60
    beside = dataclasses.replace(cpu(4), host=gpu.host)
    assert room_held.host_places([gpu, beside])[gpu.id] == "cpu"
