"""Holds models, devices and requests for tests of the profiler, and trials without an engine."""

import dataclasses
from pathlib import Path
from typing import Any

from loadgen import Samples
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.profile.points import Telemetry
from partitiond.core.units import GIB, Bytes
from partitiond.ports import ProfileRequest
from partitiond.profiler.search import NextTrial, Purpose
from partitiond.profiler.sweep.sampling import EngineSamples
from partitiond.profiler.sweep.trial import Trial

ENGINE = EngineOptions("bfloat16", max_model_len=256)
ARCHITECTURE = Architecture("llama", 135_000_000, 576, 30, 9, 3, 64, 1536, 49152, 2048)


def device(kind: DeviceKind = DeviceKind.CPU, gib: int = 32) -> Device:
    mode = SharingMode.CORES if kind is DeviceKind.CPU else SharingMode.MEMORY
    memory, cores = Bytes(gib * GIB), (0, 1, 2, 3)
    made = Device(kind.value, kind, "cpu-test", "Test CPU", "here", memory, memory, cores)
    return dataclasses.replace(made, modes=(mode,), driver="6.1")


def model(name: str = "tiny", **changes: Any) -> ResolvedModel:
    source = ModelSource(SourceKind.FOLDER, "/models/tiny")
    spec = ModelSpec(name, source, workload=Workload(8, 8), engine=ENGINE)
    spec = dataclasses.replace(spec, **changes)
    return ResolvedModel(spec, Path("/models/tiny"), "rev", ARCHITECTURE, dummy_weights=True)


def with_spec(request: ProfileRequest, **changes: Any) -> ProfileRequest:
    spec = dataclasses.replace(request.model.spec, **changes)
    return dataclasses.replace(request, model=dataclasses.replace(request.model, spec=spec))


def request_of(**changes: Any) -> ProfileRequest:
    """A profile of one core of a CPU; what is no field of it is one of the model's spec."""
    asked = ProfileRequest(
        model(), device(), (1,), 8 * GIB, max_batch=4, time_limit_seconds=40, seed=3,
        min_window_seconds=1.0, max_window_seconds=2.0, confirm_memory=False,
        confirm_capacity=False,
    )  # fmt: skip
    own = {field.name for field in dataclasses.fields(ProfileRequest)}
    of_spec = {name: value for name, value in changes.items() if name not in own}
    asked = dataclasses.replace(asked, **{k: v for k, v in changes.items() if k in own})
    return with_spec(asked, **of_spec) if of_spec else asked


def proposal_of(batch: int, purpose: Purpose = Purpose.UP) -> NextTrial:
    return NextTrial(batch, purpose, 10.0, 60.0, 15.0)


def trial_of(batch: int, rate: float, *, purpose: Purpose = Purpose.UP, **changes: Any) -> Trial:
    """A trial; a change may be of the engine's preemptions, too."""
    samples = Samples(ttft=(0.1, 0.2), tpot=(0.01,), itl=(0.01, 0.0123456), e2el=(1.0, 3.0))
    preemptions = changes.pop("preemptions", 0)
    made = Trial(
        proposal_of(batch, purpose), rate, half_width=1.0, wide=False, window_seconds=10.0,
        seconds=13.0, samples=samples, instrument_cpu=0.05, mismatches=0, peak_bytes=3_000_000_000,
        engine=EngineSamples(float(batch), preemptions, starved=False, kv_usage_mean=0.4),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


TOLD = Telemetry("test", power_watts=50.0, energy_joules=10.0, cores_used=0.25)


@dataclasses.dataclass
class FakeTelemetry:
    says: Telemetry | None = None

    async def open(self, device: Device, pids: tuple[int, ...]) -> "FakeTelemetry":
        return self

    async def close(self) -> Telemetry | None:
        return self.says
