"""Builds profiles as an engine with known factors would have given them."""

import dataclasses
import random
from typing import Final

from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import HardwareSpec, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance.transfer import transfer_profile
from partitiond.core.performance.transfer_fit import Source, Subject, TermFit
from partitiond.core.profile.knee import find_knee
from partitiond.core.profile.points import Footprint, Latency, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.models.catalog import CATALOG
from tests.controller.samples import measured_profile

TRUTH: Final = TermFit(1.3, 1.1, 0.8, 1.2, 0.9, 0.0, 0)
"""Another engine than the roofline assumes: slower steps, faster arithmetic."""
BATCHES: Final = (1, 2, 4, 8, 16, 32)
HOST: Final = cpu_hardware("cpu-test-8c", 8, 32 * GIB)
A100: Final = HARDWARE["a100-40gb"]
SHORT_ANSWERS: Final = Workload(160, 16)
WHOLE: Final = PartitionSize(SharingMode.WHOLE, 1, 100)


def cores(count: int) -> PartitionSize:
    return PartitionSize(SharingMode.CORES, count)


def subject(
    model: str = "smollm2-135m",
    size: PartitionSize | None = None,
    workload: Workload = SHORT_ANSWERS,
    hardware: HardwareSpec = HOST,
) -> Subject:
    return Subject(model, CATALOG[model].architecture, hardware, size or cores(1), workload)


def rate(wanted: Subject, batch: int, truth: TermFit = TRUTH) -> float:
    return batch / truth.seconds(wanted.terms(batch))


def source(wanted: Subject, *, noise: float = 0.0, truth: TermFit = TRUTH, seed: int = 1) -> Source:
    chance = random.Random(seed)
    points = tuple(
        _point(wanted, batch, rate(wanted, batch, truth) * (1 + noise * chance.gauss(0, 1)), noise)
        for batch in BATCHES
    )
    base = measured_profile(wanted.model, hardware=wanted.hardware.key)
    made = dataclasses.replace(
        base.provenance, weights="dummy", model_revision="abc", engine_args=("--max-model-len=256",)
    )
    profile = dataclasses.replace(
        base, id=f"{wanted.model}-{wanted.size.key}-{wanted.workload.key}", size=wanted.size,
        workload=wanted.workload, dtype=wanted.dtype, points=points, knee=find_knee(points),
        footprint=_FOOTPRINT, kv_cache_tokens=8192, provenance=made, max_num_batched_tokens=2048,
    )  # fmt: skip
    return Source(profile, wanted)


def predicted(
    known: list[Source], wanted: Subject, max_model_len: int = 256, memory_bytes: int | None = None
) -> Profile:
    """What they tell of the subject."""
    if memory_bytes is not None:
        total = Bytes(memory_bytes + headroom_bytes(memory_bytes))
        wanted = dataclasses.replace(
            wanted, hardware=dataclasses.replace(wanted.hardware, memory_bytes=total)
        )
    now = "2026-01-01T00:00:00Z"
    return transfer_profile(known, wanted, max_model_len, profile_id="t1", created_at=now)


def estimated(known: Source) -> Source:
    """The same, but nobody measured it."""
    return dataclasses.replace(
        known, profile=dataclasses.replace(known.profile, kind=ProfileKind.ESTIMATED)
    )


_FOOTPRINT: Final = Footprint(*(Bytes(GIB),) * 5, unexplained_bytes=0, peak_bytes=Bytes(2 * GIB))


def _point(wanted: Subject, batch: int, output_tokens_per_s: float, noise: float) -> OperatingPoint:
    seconds = batch / output_tokens_per_s

    def latency(mean: float) -> Latency:
        return Latency(mean, mean, 1.2 * mean, 1.3 * mean)

    per_request = wanted.workload.output_tokens
    return OperatingPoint(
        batch, output_tokens_per_s, noise * output_tokens_per_s, output_tokens_per_s / per_request,
        ttft=latency(3 * seconds), tpot=latency(seconds), itl=latency(seconds),
        e2el=latency(seconds * per_request), kv_tokens=batch * 200,
        footprint_bytes=Bytes(2 * GIB + batch * 2**22),
    )  # fmt: skip
