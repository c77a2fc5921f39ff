"""A host's room during measurements is right, and so are the devices that a job may take."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import hypothesis.strategies as st

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
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.job_slots import Slots, Turn
from partitiond.core.replica.leases import Lease
from partitiond.core.replica.observation import Unknown
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from tests.controller.samples import ARCHITECTURE, NOW, cpu, placement, spec

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
    return turn_of(queue, running, {}, here)


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


def test_jobs_that_name_the_first_gpu_run_side_by_side_on_those_like_it() -> None:
    here = host((*GPUS, OTHER))
    found = begin_on(here, job("j1"), job("j2"), job("j3"), job("j4", OTHER.id))
    assert found == [("j1", FIRST), ("j2", SECOND), ("j4", OTHER.id)]


def test_jobs_of_two_isolation_groups_measure_under_mps_on_different_gpus() -> None:
    queue = [job(f"j{n}", subject=model, sm_percent="30") for n, model in enumerate("aba")]
    here = host(slots=Slots(per_device=4), groups={"a": "x", "b": "y"})
    assert begin_on(here, *queue[:2]) == [("j0", FIRST), ("j1", SECOND)]
    alone = host(GPUS[:1], slots=Slots(per_device=4), groups={"a": "x", "b": "y"})
    (name, _, _), *rest = begun(alone, queue[0], queue[1])
    assert (name, rest) == ("j0", [])
    lease = turn(alone, queue[0]).lease
    assert lease is not None
    why = turn(alone, queue[1], running=[(queue[0], lease)]).waits["j1"]
    assert "which serves one isolation group" in why


def test_a_job_that_was_asked_for_on_one_device_runs_on_that_alone() -> None:
    only = job("j2", **{ONLY_THERE: "yes"})
    assert begin_on(host(), job("j1"), only) == [("j1", FIRST)]
    assert begin_on(host(), only, job("j1")) == [("j2", FIRST), ("j1", SECOND)]


def test_a_job_goes_on_where_it_was_and_to_no_cordoned_device_while_there_is_another() -> None:
    again = dataclasses.replace(job("j2"), device_id=SECOND)
    assert begin_on(host(), again) == [("j2", SECOND)]
    cordoned = dataclasses.replace(GPUS[0], cordoned=True)
    assert begin_on(host((cordoned, GPUS[1])), job("j1"), job("j2")) == [("j1", SECOND)]
    assert begin_on(host((cordoned,)), job("j1")) == [("j1", FIRST)]


def test_a_job_whose_device_is_gone_runs_on_one_like_it_if_its_hardware_is_known() -> None:
    lost = job("j1", "gone")
    assert turn(host(), lost).waits == {"j1": "waits for the device gone: it is not there"}
    known = dataclasses.replace(lost, hardware="a100-80gb")
    assert begin_on(host(), known) == [("j1", FIRST)]
    silent = host(room={FIRST: Unknown("silent for 30 s"), SECOND: Unknown("silent for 30 s")})
    assert "silent for 30 s" in turn(silent, known).waits["j1"]


def test_a_model_is_measured_once_at_a_time_for_its_hardware_however_it_is_asked_for() -> None:
    queue = [
        job("j1", subject="a"),
        job("j2", SECOND, subject="a", **{ONLY_THERE: "yes"}),
        job("j3", subject="a", seed="7", max_batch="8"),
        job("j4", subject="a", variant="fp8"),
    ]
    assert [one[0] for one in begun(host(), *queue)] == ["j1", "j4"]
    other = job("j5", OTHER.id, subject="a")
    assert [one[0] for one in begun(host((*GPUS, OTHER)), queue[0], other)] == ["j1", "j5"]


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


def test_a_job_for_the_whole_cpu_is_not_kept_waiting_by_jobs_on_gpus() -> None:
    devices = (CPU, *(dataclasses.replace(gpu, cores=(0, 1, 2, 3)) for gpu in GPUS))
    here = host(devices)
    running: Lent = (job("j1"), Lease(MemoryShare(FIRST, Bytes(GIB)), (0, 1)))
    queue = [job("j2", "cpu", cores="4"), job("j3", SECOND)]
    assert turn_of(queue, [running], {"j2": 3}, here).passed == ("j2",)
    assert turn_of(queue, [running], {"j2": 4}, here).begins is None


def test_host_memory_that_is_left_is_what_no_engine_takes() -> None:
    assert host_bytes_left(GPUS, {}, []) == {}
    mps = dataclasses.replace(
        placement("a-1"), device_id=FIRST, partition=MpsShare(FIRST, Bytes(9 * GIB), 30)
    )
    taking = dataclasses.replace(mps.candidate, host_memory_bytes=Bytes(3 * GIB))
    mps = dataclasses.replace(mps, candidate=taking)
    assert host_bytes_left(GPUS, {HERE: 20 * GIB}, [mps, mps]) == {HERE: 14 * GIB}
    both = (*GPUS, CPU)
    left = host_bytes_left(both, {}, [])[HERE]
    on_cpu = placement("b-1")
    assert host_bytes_left(both, {}, [mps, on_cpu]) == {
        HERE: left - 3 * GIB - on_cpu.partition.memory_bytes
    }


def test_cores_memory_and_slots_of_one_host_are_not_those_of_another() -> None:
    there = dataclasses.replace(GPUS[1], id="far", host="there", cores=GPUS[0].cores)
    gone = launch("gone", (5,))
    devices = (GPUS[0], there)
    assert busy_cores([launch(FIRST, (0, 1)), launch("far", (2,)), gone], devices) == {
        HERE: {0, 1, 5},
        "there": {2, 5},
    }
    on_far = dataclasses.replace(placement("a-1"), device_id="far")
    taken = dataclasses.replace(on_far.candidate, host_memory_bytes=Bytes(3 * GIB))
    on_far = dataclasses.replace(on_far, candidate=taken)
    stated = {HERE: 20 * GIB, "there": 20 * GIB}
    assert host_bytes_left(devices, stated, [on_far]) == {HERE: 20 * GIB, "there": 17 * GIB}
    # All cores of this host are busy, all of the other are idle; and the reverse.
    for busy, where in ((HERE, "far"), ("there", FIRST)):
        here = host(devices, busy_cores={busy: frozenset(range(16))})
        running: Lent = (job("j0", where), Lease(MemoryShare(where, Bytes(GIB)), (0, 1)))
        idle = turn(here, job("j1", where, **{ONLY_THERE: "yes"})).lease
        assert idle is not None
        assert not idle.shares_cores
        name = FIRST if where == "far" else "far"
        lease = turn_of([job("j1", name, **{ONLY_THERE: "yes"})], [running], {}, here).lease
        assert lease is not None
        assert lease.shares_cores
        assert lease.cores == GPUS[0].cores
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


@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "gone"]), st.integers(0, 7)), max_size=8, unique=True
    )
)
def test_each_core_is_busy_on_the_host_of_its_device_alone(used: list[tuple[str, int]]) -> None:
    devices = [dataclasses.replace(GPUS[0], id=name, host=name) for name in ("a", "b")]
    found = busy_cores([launch(name, (core,)) for name, core in used], devices)
    for host_name, cores in found.items():
        assert cores == {core for name, core in used if name in (host_name, "gone")}


def test_requests_are_the_same_on_any_device_of_one_hardware() -> None:
    here, there = job("j1", subject="a"), job("j2", SECOND, subject="a")
    alike = [dataclasses.replace(one, hardware="a100-80gb") for one in (here, there)]
    assert same_request(*alike)
    assert same_request(here, dataclasses.replace(alike[0], id="j3"))
    assert not same_request(here, there)  # nobody knows what they are
    assert not same_request(alike[0], dataclasses.replace(alike[1], hardware="h100-80gb"))
    assert not same_request(alike[0], dataclasses.replace(alike[1], subject="b"))
    assert not same_request(alike[0], dataclasses.replace(alike[1], kind="drift"))
    more = job("j4", SECOND, subject="a", seed="1")
    assert not same_request(alike[0], dataclasses.replace(more, hardware="a100-80gb"))
    only = [job("j5", d, subject="a", **{ONLY_THERE: "yes"}) for d in (FIRST, SECOND)]
    pinned = [dataclasses.replace(one, hardware="a100-80gb") for one in only]
    assert not same_request(*pinned)
    assert not same_request(alike[0], pinned[0])


def later(name: str, kind: str = "profile", **params: str) -> Job:
    """A job that another release queued in its own way."""
    return dataclasses.replace(job(name), kind=kind, params=tuple(sorted(params.items())))


def test_a_job_of_another_release_waits_and_holds_up_nobody() -> None:
    strange = [
        later("j1", devices=f"{FIRST},{SECOND}"),
        later("j2", device_id=FIRST, cores="all"),
        later("j3", device_id=FIRST, memory_bytes="1e9"),
        later("j4", kind="convert", device_id=FIRST),
        dataclasses.replace(later("j5", devices=FIRST), hardware="a100-80gb"),
    ]
    found = turn(host(), *strange, job("j6"))
    assert found.begins == "j6"
    assert found.passed == ()
    assert set(found.waits) == {one.id for one in strange}
    for reason in found.waits.values():
        assert reason.startswith("waits for the release that queued it: this one cannot read ")
    assert "convert" in found.waits["j4"]


def test_a_job_of_another_release_is_compared_by_what_it_was_asked_with() -> None:
    here = dataclasses.replace(job("j1", subject="a"), hardware="a100-80gb")
    strange = dataclasses.replace(here, params=(("devices", FIRST),))
    assert not same_request(here, strange)
    assert not same_request(strange, here)
    assert same_request(strange, strange)
