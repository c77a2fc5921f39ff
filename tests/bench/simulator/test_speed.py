"""The simulator's benchmarks derive the right results from plans and figures."""

import pytest

from bench.simulator.speed import repeated
from tests.simulated.samples import candidate, plan


def test_cells_are_alike_and_share_their_models() -> None:
    one = plan({"gpu-0": [candidate("m")], "gpu-1": [candidate("n")]}, {"m": 5.0, "n": None})
    made = repeated(one, 3)
    assert len(made.devices) == 6
    assert len({p.replica_id for p in made.placements}) == 6
    assert all(p.partition.device_id == p.device_id for p in made.placements)
    (m, _) = made.forecasts
    assert m.replicas == 3
    assert m.capacity_req_per_s == pytest.approx(3 * one.forecasts[0].capacity_req_per_s)
