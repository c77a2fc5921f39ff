"""An engine's behaviour is taken from the best that is known of it."""

from pathlib import Path

import pytest

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.profile.record import ProfileKind
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
from tests.simulated.replay.samples import BATCH, WORKLOAD, ConstantSteps, candidate, device, plan

NAME = "opt-125m"


def test_a_measured_profile_goes_before_the_roofline_and_that_before_the_candidates_figures() -> (
    None
):
    profiles = map(read_profile, profile_paths([Path(__file__).parents[3] / "profiles"]))
    profile = next(p for p in profiles if p.model == NAME and p.kind is ProfileKind.MEASURED)
    specs = {NAME: ModelSpec(NAME, ModelSource(SourceKind.CONFIG, NAME), workload=WORKLOAD)}
    one = candidate(NAME, profile_id=profile.id)
    (placed,) = plan({"gpu": [one]}, {}).placements
    on = {"gpu": device("gpu", "a100-80gb")}
    catalog = CATALOG[NAME].architecture
    for profiles_known, architecture, expected in (
        ({profile.id: profile}, catalog, StepModel),
        ({}, catalog, RooflineSteps),
        ({}, None, StepModel),
    ):

        def architectures(
            _: ModelSpec, of: Architecture | None = architecture
        ) -> Architecture | None:
            return of

        known = best_known(specs, on, profiles=profiles_known, architectures=architectures)
        assert isinstance(known(placed).steps, expected)
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
    assert engine.kv_cache_tokens >= BATCH * WORKLOAD.moments.occupancy_mean
    assert engine.kv_cache_tokens % 16 == 0
