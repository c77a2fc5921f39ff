"""An engine's behaviour is taken from the best that is known of it."""

from pathlib import Path

from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.performance.engine_speed import RooflineSteps
from partitiond.core.profile.record import ProfileKind
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG
from partitiond.simulated.fleet.engine_model import best_known, engine_from_profile
from partitiond.simulated.steps import StepModel
from tests.simulated.samples import BATCH, WORKLOAD, candidate, device, plan

NAME = "opt-125m"


def test_a_measured_profile_goes_before_the_roofline() -> None:
    profiles = map(read_profile, profile_paths([Path(__file__).parents[3] / "profiles"]))
    profile = next(p for p in profiles if p.model == NAME and p.kind is ProfileKind.MEASURED)
    specs = {NAME: ModelSpec(NAME, ModelSource(SourceKind.CONFIG, NAME), workload=WORKLOAD)}
    (placed,) = plan({"gpu": [candidate(NAME, profile_id=profile.id)]}, {}).placements
    on = {"gpu": device("gpu", "a100-80gb")}
    for known, expected in (({profile.id: profile}, StepModel), ({}, RooflineSteps)):
        behaves = best_known(specs, on, {(NAME, ""): CATALOG[NAME].architecture}, known)(placed)
        assert isinstance(behaves.steps, expected)
        assert behaves.kv_cache_tokens >= BATCH * WORKLOAD.moments.occupancy_mean
        assert behaves.kv_cache_tokens % 16 == 0
    point = profile.points[-1]
    measured = engine_from_profile(profile, point.batch, 1000)
    assert point.kv_tokens <= measured.kv_cache_tokens < point.kv_tokens + 128
