"""Builds small instances for planner tests."""

import dataclasses

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind
from partitiond.core.performance.interference import Interference, mode_overhead_bytes
from partitiond.core.plan.record import Candidate, ModelDemand
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from tests.devices.fake import fake_cpu

__all__ = ["FREE", "MODES", "cpu", "gpu", "gpus", "in_mig", "on_cores", "point", "spec", "want"]

MODES = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)
FREE = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0, (1.0,))
"""Replicas do not slow each other down."""


def gpu(name: str = "gpu-0", *, gib: float = 80, **changes: object) -> Device:
    """A GPU with `gib` of memory left for footprints in mode MPS."""
    usable = int(gib * GIB) + mode_overhead_bytes(SharingMode.MPS)
    total = usable
    while total - headroom_bytes(total) < usable:
        total += usable - (total - headroom_bytes(total))
    values: dict[str, object] = {
        "id": name,
        "kind": DeviceKind.GPU,
        "hardware": "a100-80gb",
        "name": "NVIDIA A100",
        "host": "host",
        "memory_bytes": Bytes(total),
        "free_bytes": Bytes(total),
        "cores": (),
        "sm_count": 108,
        "modes": MODES,
    }
    return Device(**{**values, **changes})  # type: ignore[arg-type]


def gpus(count: int, **changes: object) -> tuple[Device, ...]:
    """GPUs that are alike, on one host: g0, g1 ..."""
    return tuple(gpu(f"g{n}", **changes) for n in range(count))  # type: ignore[arg-type]


def cpu(cores: int = 2, *, gib: int = 24, host: str = "host") -> Device:
    """A CPU device."""
    there = fake_cpu(cores, gib * GIB, host=host)
    return dataclasses.replace(there, hardware="cpu-test", name="CPU", driver="")


def point(
    model: str,
    rate: float,
    gib: float,
    *,
    sm: int = 0,
    busy: float = 0.0,
    cores: int = 1,
    batch: int = 8,
    hardware: str = "a100-80gb",
    mode: SharingMode | None = None,
    host_gib: float = 0,
    latency: float = 0.01,
    kappa: float | None = None,
    watts: float | None = None,
) -> Candidate:
    """A candidate; MPS where `sm` is given, memory share otherwise."""
    mode = mode or (SharingMode.MPS if sm else SharingMode.MEMORY)
    percent = sm if mode is SharingMode.MPS else 0 if mode is SharingMode.CORES else 100
    return Candidate(
        model=model,
        profile_id=f"profile-{model}-{mode}-{percent}",
        profile_kind=ProfileKind.MEASURED,
        hardware=hardware,
        size=PartitionSize(mode, cores, percent),
        batch=batch,
        memory_bytes=Bytes(int(gib * GIB)),
        kv_cache_bytes=Bytes(int(gib * GIB) // 2),
        capacity_req_per_s=rate,
        output_tokens_per_s=rate * 256,
        ttft_p95_seconds=latency * 10,
        tpot_p95_seconds=latency,
        host_memory_bytes=Bytes(int(host_gib * GIB)),
        busy=busy,
        kappa=kappa,
        watts=watts,
    )


def on_cores(model: str, rate: float, cores: int, gib: float = 4, **more: object) -> Candidate:
    """A candidate on CPU cores."""
    return point(model, rate, gib, cores=cores, hardware="cpu-test", mode=SharingMode.CORES, **more)  # type: ignore[arg-type]


def in_mig(
    model: str,
    rate: float,
    mig_profile: str,
    gib: float = 4,
    *,
    hardware: str = "a100-80gb",
    batch: int = 8,
    watts: float | None = None,
) -> Candidate:
    """A candidate in a MIG slice."""
    made = point(
        model, rate, gib, hardware=hardware, mode=SharingMode.MIG, batch=batch, watts=watts
    )
    size = PartitionSize(SharingMode.MIG, 1, 100, mig_profile)
    return dataclasses.replace(made, size=size, profile_id=f"profile-{model}-{size.key}")


def want(
    model: str, *candidates: Candidate, rate: float | None = None, **more: object
) -> ModelDemand:
    """A demand; without `rate` as much as there is."""
    weight = more.pop("weight", 1.0)
    demand = Demand(req_per_s=rate, weight=weight)  # type: ignore[arg-type]
    return ModelDemand(model, demand, candidates, **more)  # type: ignore[arg-type]


def spec(name: str, rate: float | None = 5.0, **more: object) -> ModelSpec:
    """A model as people ask for it."""
    source = ModelSource(SourceKind.CONFIG, name)
    return ModelSpec(name, source, demand=Demand(rate), **more)  # type: ignore[arg-type]
