"""Holds specs, placements, plans and profiles for tests."""

import dataclasses
from collections.abc import Sequence

from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import Figure, Finding, LedgerEntry, Verdict
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import CpuCores, PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Candidate, Certificate, Objective, Placement, Plan, Status
from partitiond.core.profile.confirmed import FrontierMemory
from partitiond.core.profile.points import Footprint, Knee, Latency, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import GIB, MIB, Bytes
from tests.devices.fake import fake_cpu

NOW = "2026-01-01T00:00:00.000Z"
ARCHITECTURE = Architecture(
    family="llama",
    parameters=10_000_000,
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=1000,
    max_position=4096,
)


def spec(name: str = "a", **changes: object) -> ModelSpec:
    base = ModelSpec(
        name=name,
        source=ModelSource(SourceKind.FOLDER, f"/models/{name}"),
        workload=Workload(64, 32),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def record(name: str = "a", **changes: object) -> ModelRecord:
    return ModelRecord(spec(name, **changes), 1, NOW, NOW)


def cpu(cores: int = 2, memory_gib: int = 24) -> Device:
    there = fake_cpu(cores, memory_gib * GIB, host="test")
    return dataclasses.replace(there, hardware=f"cpu-test-{cores}c", driver="")


def placement(
    replica_id: str = "a-1",
    cores: Sequence[int] = (0,),
    *,
    batch: int = 4,
    kind: ProfileKind = ProfileKind.MEASURED,
) -> Placement:
    model = replica_id.rpartition("-")[0]
    memory = Bytes(500 * MIB)
    candidate = Candidate(
        model=model,
        profile_id=f"profile-{model}",
        profile_kind=kind,
        hardware="cpu-test-2c",
        size=PartitionSize(SharingMode.CORES, len(cores)),
        batch=batch,
        memory_bytes=memory,
        kv_cache_bytes=Bytes(100 * MIB),
        capacity_req_per_s=1.0,
        output_tokens_per_s=100.0,
        ttft_p95_seconds=0.2,
        tpot_p95_seconds=0.01,
    )
    return Placement(replica_id, model, "cpu", CpuCores("cpu", memory, tuple(cores)), candidate)


def plan(
    *placements: Placement, plan_id: str = "plan-1", devices: Sequence[Device] | None = None
) -> Plan:
    certificate = Certificate(
        Objective.MIN_DEVICES, 1.0, 1.0, 0.0, Status.OPTIMAL, "by hand", seconds=0.0
    )
    return Plan(
        id=plan_id,
        placements=placements,
        devices=tuple(devices if devices is not None else [cpu()]),
        forecasts=(),
        unplaced=(),
        certificate=certificate,
        explanation=(),
        created_at=NOW,
    )


def measured_profile(
    model: str = "a",
    *,
    cores: int = 1,
    hardware: str = "cpu-test-2c",
    engine: str = "vllm",
    kind: ProfileKind = ProfileKind.MEASURED,
    profile_id: str = "",
) -> Profile:
    points = tuple(_point(batch, cores) for batch in (1, 2, 4, 8))
    best = points[-1].output_tokens_per_s
    return Profile(
        id=profile_id or f"{model}-{hardware}-{cores}-{kind.value}",
        model=model,
        kind=kind,
        hardware=hardware,
        size=PartitionSize(SharingMode.CORES, cores),
        workload=Workload(64, 32),
        dtype="bfloat16",
        points=points,
        knee=Knee(4, 4, 8, 0.05, best, None, 8),
        footprint=Footprint(
            Bytes(100 * MIB), Bytes(100 * MIB), Bytes(50 * MIB), Bytes(0), Bytes(250 * MIB),
            0, Bytes(500 * MIB),
        ),
        kv_cache_tokens=4096,
        provenance=Provenance(
            engine=engine,
            engine_version="0.0-fake",
            engine_args=(),
            weights="real",
            model_revision=None,
            hardware=hardware,
            device_name="test CPU",
            driver="",
            host_cores=tuple(range(cores)),
            seed=0,
            started_at=NOW,
            duration_seconds=1.0,
            partitiond_version="0",
        ),
        # Measured in full: nothing is open.
        frontier_memory=FrontierMemory(4, Bytes(1), Bytes(1), None, None, 0, confirmed=False),
    )  # fmt: skip


ENTRY = LedgerEntry(
    at="2030-01-01T00:00:00Z",
    model="a",
    replica_id="a-1",
    device_id="cpu",
    hardware="cpu-test-2c",
    profile_id="profile-a",
    profile_kind=ProfileKind.MEASURED,
    requests=30,
    seconds=20.0,
    batch=2.5,
    prompt_tokens=64.0,
    output_tokens=32.0,
    sharing=1.0,
    findings=(Finding(Figure.PACE, 0.010, 0.013, 0.07, Verdict.SLOWER, 1.3, 1.25, 1.35, 4),),
)
CORRECTION = Correction(
    "profile-a", "a", "cpu-test-2c", 0.75, 1.3, 1.25, 1.35, 1, "2030-01-01T00:00:00Z"
)


def _point(batch: int, cores: int) -> OperatingPoint:
    rate = 100.0 * min(batch, 4) * cores**0.5
    latency = Latency(0.1, 0.1, 0.2, 0.3)
    gap = Latency(0.01, 0.01, 0.02, 0.03)
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=rate,
        half_width=1.0,
        req_per_s=rate / 32,
        ttft=latency,
        tpot=gap,
        itl=gap,
        e2el=latency,
        kv_tokens=batch * 100,
        footprint_bytes=Bytes(500 * MIB),
        running_mean=float(batch),
        windows=2,
    )
