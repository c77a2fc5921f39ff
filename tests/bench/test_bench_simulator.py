"""What the simulator's benchmarks make of plans and figures."""

import pytest

from bench.bench_simulator import repeated
from bench.bench_simulator_agreement import compared, table
from tests.simulation.samples import candidate, plan


def test_cells_are_alike_and_share_their_models() -> None:
    one = plan({"gpu-0": [candidate("m")], "gpu-1": [candidate("n")]}, {"m": 5.0, "n": None})
    made = repeated(one, 3)
    assert len(made.devices) == 6
    assert len({p.replica_id for p in made.placements}) == 6
    assert all(p.partition.device_id == p.device_id for p in made.placements)
    (m, _) = made.forecasts
    assert m.replicas == 3
    assert m.capacity_req_per_s == pytest.approx(3 * one.forecasts[0].capacity_req_per_s)


def test_errors_are_those_of_the_simulation_against_the_median_of_what_was_measured() -> None:
    real = [{"m": {"goodput/s": rate, "refused": 0.1}} for rate in (9.0, 10.0, 12.0)]
    made = [{"m": {"goodput/s": 11.0, "refused": 0.15}}]
    rows = list(compared(0.9, real, made))
    assert rows == [
        (0.9, "m", "goodput/s", 10.0, pytest.approx(0.3), 11.0),
        (0.9, "m", "refused", 0.1, 0.0, 0.15),
    ]
    text = "\n".join(table(rows))
    assert "+10.0%" in text
    assert "+5.0%" in text
