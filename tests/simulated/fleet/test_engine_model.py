"""An engine's behaviour is taken from the best that is known of it."""

from pathlib import Path

import pytest

from partitiond import serde
from partitiond.core.errors import InputError
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.performance.engine_speed import RooflineSteps
from partitiond.core.profile.confirmed import StepTime
from partitiond.core.profile.record import ProfileKind
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG
from partitiond.simulated.fleet.engine_model import (
    EngineModel,
    best_known,
    engine_from_profile,
)
from partitiond.simulated.fleet.fitted import FittedHost, read_fitted
from partitiond.simulated.fleet.host_costs import HostCosts
from partitiond.simulated.steps import StepModel
from tests.simulated.samples import BATCH, WORKLOAD, candidate, device, engine, plan

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


def test_fitted_parameters_replace_those_of_the_models_that_they_are_of(tmp_path: Path) -> None:
    path = tmp_path / "fitted.json"
    costs = HostCosts(way_seconds=0.02)
    fitted = FittedHost({"m": StepTime(0.01, 1e-4, 0, 0, 0, 60, 1)}, {"m": costs}, 0.3)
    path.write_text(serde.to_stored_json(fitted))
    engine_of = read_fitted(path).applied(engine)
    mine, other = plan({"gpu": [candidate("m"), candidate("n")]}, {}).placements
    found = engine_of(mine)
    assert found == EngineModel(fitted.steps_of("m"), 100_000, 1000, costs=costs, kappa=0.3)
    assert found.steps.step_seconds(2, 8) == pytest.approx(0.011)
    assert engine_of(other).kappa is None
    for text, said in (("{}", "steps"), ("no json", "FittedHost")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_fitted(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_fitted(tmp_path)
