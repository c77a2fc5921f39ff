from pathlib import Path

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import WholeDevice
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import Bytes
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG
from partitiond.simulated.replay.models import (
    EngineModel,
    admitted_sequences,
    best_known,
    engine_from_candidate,
    engine_from_profile,
)
from partitiond.simulated.replay.steps import RooflineSteps, StepModel
from tests.simulated.replay.samples import BATCH, WORKLOAD, ConstantSteps, candidate

SPEC = ModelSpec("opt-125m", ModelSource(SourceKind.CONFIG, "opt-125m"), workload=WORKLOAD)
GPU = Device(
    id="gpu",
    kind=DeviceKind.GPU,
    hardware="a100-80gb",
    name="A100",
    host="host",
    memory_bytes=HARDWARE["a100-80gb"].memory_bytes,
    free_bytes=HARDWARE["a100-80gb"].memory_bytes,
    cores=(),
    modes=(SharingMode.WHOLE,),
)
PLACED = Placement(
    "opt-125m-1", "opt-125m", "gpu", WholeDevice("gpu", Bytes(1)), candidate("opt-125m")
)


def shipped() -> Profile:
    """A measured profile that ships with the package."""
    paths = profile_paths([Path(__file__).parents[3] / "profiles"])
    profiles = [read_profile(path) for path in paths]
    return next(p for p in profiles if p.model == "opt-125m" and p.kind is ProfileKind.MEASURED)


def test_a_measured_profile_goes_before_the_roofline() -> None:
    profile = shipped()
    placed = Placement(
        "opt-125m-1",
        "opt-125m",
        "gpu",
        WholeDevice("gpu", Bytes(1)),
        candidate("opt-125m", profile_id=profile.id),
    )
    with_it = best_known(
        {"opt-125m": SPEC},
        {"gpu": GPU},
        profiles={profile.id: profile},
        architectures=lambda _spec: CATALOG["opt-125m"].architecture,
    )
    assert isinstance(with_it(placed).steps, StepModel)


def test_the_roofline_goes_before_the_candidates_own_figures() -> None:
    known = best_known(
        {"opt-125m": SPEC},
        {"gpu": GPU},
        architectures=lambda _spec: CATALOG["opt-125m"].architecture,
    )
    unknown = best_known({"opt-125m": SPEC}, {"gpu": GPU}, architectures=lambda _spec: None)
    assert isinstance(known(PLACED).steps, RooflineSteps)
    assert isinstance(unknown(PLACED).steps, StepModel)


def test_an_engine_of_a_profile_holds_the_kv_tokens_of_its_point() -> None:
    profile = shipped()
    point = profile.points[-1]
    engine = engine_from_profile(profile, point.batch, 1000)
    assert point.kv_tokens <= engine.kv_cache_tokens < point.kv_tokens + 128


@pytest.mark.parametrize(("kv_tokens", "expected"), [(0, BATCH), (10_000, BATCH), (102, 2), (9, 1)])
def test_admission_counts_what_a_request_may_hold_at_its_end(kv_tokens: int, expected: int) -> None:
    # 32 prompt and 16 output tokens each; an empty replica takes any request.
    engine = EngineModel(ConstantSteps(), kv_tokens, 1000)
    assert admitted_sequences(engine, BATCH, WORKLOAD) == expected


def test_a_candidates_engine_holds_its_batch() -> None:
    engine = engine_from_candidate(candidate("m"), WORKLOAD)
    mean = WORKLOAD.moments.occupancy_mean
    assert engine.kv_cache_tokens >= BATCH * mean
    assert engine.kv_cache_tokens % 16 == 0
