"""Holds small values of every kind that the store keeps."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import CpuCores, PartitionSize
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Candidate, Certificate, Objective, Placement, Plan, Status
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.points import Footprint, Knee
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import Bytes
from partitiond.ports import Store
from partitiond.store import open_store

AT = "2030-01-01T00:00:00Z"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Both forms of the store; one suite."""
    opened = open_store(tmp_path / "s.sqlite3" if request.param == "file" else ":memory:")
    yield opened
    opened.close()


@pytest.fixture
def make_record() -> Callable[..., ModelRecord]:
    def make(name: str = "opt-125m", version: int = 1) -> ModelRecord:
        spec = ModelSpec(name=name, source=ModelSource(SourceKind.HUB, f"facebook/{name}"))
        return ModelRecord(spec, version, AT, AT)

    return make


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    def make(profile_id: str = "p1", model: str = "opt-125m", started_at: str = AT) -> Profile:
        return Profile(
            id=profile_id,
            model=model,
            kind=ProfileKind.MEASURED,
            hardware="cpu-x",
            size=PartitionSize(SharingMode.CORES, 1),
            workload=Workload(),
            dtype="bfloat16",
            points=(),
            knee=Knee(8, 6, 9, 0.05, 100.0, None, 16),
            footprint=Footprint(Bytes(1), Bytes(2), Bytes(3), Bytes(0), Bytes(4), -1, Bytes(9)),
            kv_cache_tokens=4096,
            provenance=Provenance(
                "vllm", "1", (), "dummy", None, "cpu-x", "X", "6.1", (0,), 0, started_at, 1.0, "0"
            ),
        )

    return make


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(job_id: str = "j1", state: JobState = JobState.QUEUED) -> Job:
        progress = Progress("queued", "waits for the device", None, None)
        return Job(job_id, "profile", "opt-125m", state, AT, AT, progress, (("seed", "0"),))

    return make


@pytest.fixture
def plan() -> Plan:
    device = Device(
        id="cpu",
        kind=DeviceKind.CPU,
        hardware="cpu-x",
        name="X",
        host="h",
        memory_bytes=Bytes(8 << 30),
        free_bytes=Bytes(8 << 30),
        cores=(0, 1),
        modes=(SharingMode.CORES,),
    )
    candidate = Candidate(
        "opt-125m",
        "p1",
        ProfileKind.MEASURED,
        "cpu-x",
        PartitionSize(SharingMode.CORES, 1),
        8,
        Bytes(1 << 30),
        Bytes(1 << 20),
        2.0,
        100.0,
        0.1,
        0.01,
    )
    partition = CpuCores("cpu", Bytes(1 << 30), (0,))
    certificate = Certificate(Objective.MIN_DEVICES, 1, 1, 0.0, Status.OPTIMAL, "exact", 0.1)
    placement = Placement("opt-125m-1", "opt-125m", "cpu", partition, candidate)
    return Plan("plan-1", (placement,), (device,), (), (), certificate, ("why",), AT)


@pytest.fixture
def make_plan(plan: Plan) -> Callable[[str], Plan]:
    return lambda plan_id: dataclasses.replace(plan, id=plan_id)
