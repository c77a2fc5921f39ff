"""A host's room during measurements is right, and so are the devices that a job may take."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from partitiond.controller.profiles.job_room import (
    ONLY_THERE,
    JobHost,
    Lent,
    busy_cores,
    host_bytes_left,
    same_request,
    turn_of,
)
from partitiond.controller.runtime.launches import launch_for
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MpsShare
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.plan.record import Placement
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.job_slots import Slots, Turn
from partitiond.core.replica.leases import Lease
from partitiond.core.replica.observation import Unknown
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import ARCHITECTURE, NOW, cpu, placement, spec
from tests.devices.fake import fake_gpus

GPUS = fake_gpus("a100-80gb", 2, cores=range(16))
OTHER = dataclasses.replace(fake_gpus("h100-80gb")[0], cores=tuple(range(16, 32)))
FIRST, SECOND = (gpu.id for gpu in GPUS)
HERE = GPUS[0].host
CPU = dataclasses.replace(cpu(4), host=HERE)


def launch(device_id: str, cores: tuple[int, ...]) -> EngineLaunch:
    placed = dataclasses.replace(placement("a-1"), device_id=device_id)
    on = dataclasses.replace(GPUS[0], id=device_id)
    model = ResolvedModel(spec("a"), Path("/models/a"), None, ARCHITECTURE, True)
    made = launch_for(placed, model, on, name="a-1")
    return dataclasses.replace(made, cores=cores)


def job(name: str, device_id: str = FIRST, subject: str = "", **params: str) -> Job:
    stored = tuple(sorted({"device_id": device_id, **params}.items()))
    progress = Progress("queued", "")
    return Job(name, "profile", subject or name, JobState.QUEUED, NOW, NOW, progress, stored)


def host(devices: Sequence[Device] = GPUS, **changes: object) -> JobHost:
    room = {device.id: 70 * GIB for device in devices}
    there = JobHost(tuple(devices), room, ())
    return dataclasses.replace(there, **changes)  # type: ignore[arg-type]


def turn(here: JobHost, *queue: Job, running: Sequence[Lent] = ()) -> Turn[Lease]:
    return turn_of(queue, running, here)


def begin_on(here: JobHost, *queue: Job) -> list[tuple[str, str]]:
    return [(name, device) for name, device, _ in begun(here, *queue)]


def begun(here: JobHost, *queue: Job) -> list[tuple[str, str, tuple[int, ...]]]:
    """All that begin, one after the other: job, device, host cores."""
    waiting, running = list(queue), list[Lent]()
    while (found := turn(here, *waiting, running=running)).lease is not None:
        one = next(w for w in waiting if w.id == found.begins)
        waiting.remove(one)
        running.append((one, found.lease))
    return [(one.id, lease.partition.device_id, lease.cores) for one, lease in running]


def test_a_job_runs_where_it_was_asked_for_or_was_and_on_no_cordoned_device_if_it_can() -> None:
    only = job("j2", **{ONLY_THERE: "yes"})
    assert begin_on(host(), job("j1"), only) == [("j1", FIRST)]
    assert begin_on(host(), only, job("j1")) == [("j2", FIRST), ("j1", SECOND)]
    again = dataclasses.replace(job("j2"), device_id=SECOND)
    assert begin_on(host(), again) == [("j2", SECOND)]
    cordoned = dataclasses.replace(GPUS[0], cordoned=True)
    assert begin_on(host((cordoned, GPUS[1])), job("j1"), job("j2")) == [("j1", SECOND)]
    assert begin_on(host((cordoned,)), job("j1")) == [("j1", FIRST)]
    lost = job("j1", "gone")
    assert turn(host(), lost).waits == {"j1": "waits for the device gone: it is not there"}
    known = dataclasses.replace(lost, hardware="a100-80gb")  # on one like it
    assert begin_on(host(), known) == [("j1", FIRST)]
    silent = host(room={FIRST: Unknown("silent for 30 s"), SECOND: Unknown("silent for 30 s")})
    assert "silent for 30 s" in turn(silent, known).waits["j1"]


def test_each_job_has_its_gpus_part_of_the_host_cores_whoever_else_measures() -> None:
    found = begun(host(), job("j1"), job("j2"))
    assert [cores for *_, cores in found] == [tuple(range(8)), tuple(range(8, 16))]
    assert begun(host(), job("j2"))[0][2] == tuple(range(8))
    alone = begun(host(GPUS[:1]), job("j1"))
    assert alone[0][2] == tuple(range(16))
    shares = [job(f"j{n}", sm_percent="30", memory_bytes=str(9 * GIB)) for n in range(3)]
    two = begun(host(GPUS[:1], slots=Slots(per_device=2)), *shares)
    assert [cores for *_, cores in two] == [tuple(range(8)), tuple(range(8, 16))]


def test_jobs_beside_others_wait_for_host_cores_and_host_memory() -> None:
    few = tuple(dataclasses.replace(gpu, cores=(0, 1, 2)) for gpu in GPUS)
    assert len(begun(host(few), job("j1"), job("j2"))) == 1
    assert len(begun(host(host_bytes={HERE: 7 * GIB}), job("j1"), job("j2"))) == 2
    tight = host(host_bytes={HERE: 5 * GIB})
    assert len(begun(tight, job("j1"), job("j2"))) == 1  # the first begins in any case
    lent = [(job("j1"), Lease(MemoryShare(FIRST, Bytes(GIB)), (0, 1)))]
    assert turn(tight, job("j2"), running=lent).waits == {
        "j2": "waits for j1, or for 3 GiB of host memory: 2 GiB are not held"
    }


def test_the_cpu_and_gpus_share_cores_and_memory_of_their_host() -> None:
    devices = (CPU, dataclasses.replace(GPUS[0], cores=(0, 1, 2, 3)))
    room = {"cpu": 10 * GIB, FIRST: 70 * GIB}
    here = host(devices, room=room, host_bytes={HERE: 10 * GIB})
    on_gpu: Lent = (job("j1"), Lease(MemoryShare(FIRST, Bytes(GIB)), (0, 1)))
    beside = turn(here, job("j2", "cpu", cores="2"), running=[on_gpu]).lease
    assert beside is not None
    assert (beside.cores, beside.memory_bytes) == ((2, 3), 7 * GIB)
    large = job("j3", "cpu", cores="3")
    assert "j1 holds core 0" in turn(here, large, running=[on_gpu]).waits["j3"]
    on_cpu: Lent = (job("j4", "cpu"), Lease(CpuCores("cpu", Bytes(8 * GIB), (0, 1)), (0, 1)))
    assert turn(here, job("j1"), running=[on_cpu]).waits == {
        "j1": "waits for 3 GiB of host memory: 2 GiB are not held"
    }


def taking(device_id: str) -> Placement:
    """A replica that takes 3 GiB of the host beside its device."""
    one = placement("a-1")
    candidate = dataclasses.replace(one.candidate, host_memory_bytes=Bytes(3 * GIB))
    share = MpsShare(device_id, Bytes(9 * GIB), 30)
    return dataclasses.replace(one, device_id=device_id, partition=share, candidate=candidate)


def test_cores_memory_and_slots_of_one_host_are_not_those_of_another() -> None:
    there = dataclasses.replace(GPUS[1], id="far", host="there", cores=GPUS[0].cores)
    devices = (GPUS[0], there)
    launches = [launch(FIRST, (0, 1)), launch("far", (2,)), launch("gone", (5,))]
    assert busy_cores(launches, devices) == {HERE: {0, 1, 5}, "there": {2, 5}}
    assert host_bytes_left(GPUS, {}, []) == {}
    stated = {HERE: 20 * GIB, "there": 20 * GIB}
    running = [taking(FIRST), taking(FIRST), taking("far")]
    assert host_bytes_left(devices, stated, running) == {HERE: 14 * GIB, "there": 17 * GIB}
    both, on_cpu = (*GPUS, CPU), placement("b-1")
    left = host_bytes_left(both, {}, [])[HERE] - 3 * GIB - on_cpu.partition.memory_bytes
    assert host_bytes_left(both, {}, [taking(FIRST), on_cpu]) == {HERE: left}
    # All cores of one host are busy, all of the other are idle.
    for busy, where, name in ((HERE, "far", FIRST), ("there", FIRST, "far")):
        here = host(devices, busy_cores={busy: frozenset(range(16))})
        lent: Lent = (job("j0", where), Lease(MemoryShare(where, Bytes(GIB)), (0, 1)))
        idle = turn(here, job("j1", where, **{ONLY_THERE: "yes"})).lease
        assert idle is not None
        assert not idle.shares_cores
        shared = turn(here, job("j1", name, **{ONLY_THERE: "yes"}), running=[lent]).lease
        assert shared is not None
        assert (shared.shares_cores, shared.cores) == (True, GPUS[0].cores)
    tight = host(devices, host_bytes={HERE: 5 * GIB, "there": 5 * GIB})
    assert len(begun(tight, job("j1"), job("j2"), job("j3"))) == 2
    one_each = host((*GPUS, there), slots=Slots(per_device=1, per_host=1))
    found = begun(one_each, job("j1"), job("j2"), job("j3", subject="c"))
    assert [where for _, where, _ in found] == [FIRST, "far"]


def test_no_job_begins_beside_engines_that_start_on_its_host_and_other_hosts_measure() -> None:
    there = dataclasses.replace(GPUS[1], id="far", host="there")
    here = host((GPUS[0], there), starting={HERE: ("a-1", "b-1"), "there": ()})
    queue = [job("j1"), job("j2"), job("j3", FIRST, **{ONLY_THERE: "yes"})]
    assert begin_on(here, *queue) == [("j1", "far")]
    lease = turn(here, *queue).lease
    assert lease is not None
    waits = turn(here, *queue[1:], running=[(queue[0], lease)]).waits
    assert waits == {
        "j2": "waits for j1, or until a-1 and b-1 serve",
        "j3": "waits until a-1 and b-1 serve",
    }


def test_requests_are_the_same_on_any_device_of_one_hardware() -> None:
    here, there = job("j1", subject="a"), job("j2", SECOND, subject="a")
    one, other = (dataclasses.replace(each, hardware="a100-80gb") for each in (here, there))
    pinned = tuple(sorted({"device_id": SECOND, ONLY_THERE: "yes"}.items()))
    assert same_request(one, other)
    assert same_request(here, dataclasses.replace(one, id="j3"))
    assert not same_request(here, there)  # nobody knows what they are
    for change in (
        {"hardware": "h100-80gb"},
        {"subject": "b"},
        {"kind": "drift"},
        {"params": (*other.params, ("seed", "1"))},
        {"params": pinned},
        {"params": (("devices", FIRST),)},  # of another release: as it was asked for
    ):
        changed = dataclasses.replace(other, **change)
        assert not same_request(one, changed), change
        assert not same_request(changed, one), change
        assert same_request(changed, changed), change
    at_first = dataclasses.replace(other, params=(("device_id", FIRST), (ONLY_THERE, "yes")))
    assert not same_request(at_first, dataclasses.replace(other, params=pinned))


def test_a_job_of_another_release_waits_and_holds_up_nobody() -> None:
    strange = [
        dataclasses.replace(job("j1"), params=(("devices", f"{FIRST},{SECOND}"),)),
        job("j2", cores="all"),
        job("j3", memory_bytes="1e9"),
        dataclasses.replace(job("j4"), kind="convert"),
        dataclasses.replace(job("j5"), params=(("devices", FIRST),), hardware="a100-80gb"),
    ]
    found = turn(host(), *strange, job("j6"))
    assert found.begins == "j6"
    assert set(found.waits) == {one.id for one in strange}
    for reason in found.waits.values():
        assert reason.startswith("waits for the release that queued it: this one cannot read ")
    assert "convert" in found.waits["j4"]
