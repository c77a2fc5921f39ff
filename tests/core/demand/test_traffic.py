"""Windows between two samples of the proxy's counts are computed."""

from typing import Any

import pytest

from partitiond.core.demand import traffic
from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, TrafficWindow


def sample(
    at: float, epoch: str = "p", model: ModelCount | None = None, **replica: Any
) -> TrafficSample:
    generation = replica.pop("generation", "g")
    count = ReplicaCount("m", generation, **replica)
    return TrafficSample(at, epoch, {} if model is None else {"m": model}, {"m-0": count})


def test_rates_and_means_are_of_what_happened_in_between() -> None:
    before = ModelCount(arrived=10, ok=8, output_tokens=80, prompt_tokens=16)
    after = ModelCount(arrived=30, ok=28, output_tokens=480, prompt_tokens=76, waiting=3)
    window = TrafficWindow.between(
        sample(10.0, model=before, ok=8, rest_seconds=1.0, rest_tokens=10),
        sample(
            20.0, model=after, ok=28, rest_seconds=3.0, rest_tokens=30, sequence_seconds=40,
            busy_seconds=5,
        ),
    )  # fmt: skip
    model, replica = window.models["m"], window.replicas["m-0"]
    assert (model.req_per_s, model.ok_per_s, model.output_tokens_per_s) == (2.0, 2.0, 40.0)
    assert (model.prompt_tokens, model.output_tokens, model.waiting) == (3.0, 20.0, 3)
    assert model.ttft_seconds is None
    assert replica.tpot_seconds == pytest.approx(0.1)
    assert (replica.mean_batch, replica.busy_share) == (4.0, 0.5)


def test_what_began_anew_counts_from_its_begin() -> None:
    old = sample(0.0, model=ModelCount(arrived=100), ok=90)
    window = TrafficWindow.between(old, sample(1.0, "q", ModelCount(arrived=5), ok=4))
    assert (window.models["m"].req_per_s, window.replicas["m-0"].ok) == (5.0, 4)
    window = TrafficWindow.between(old, sample(1.0, generation="h", ok=7))
    assert window.replicas["m-0"].ok == 7
    assert TrafficWindow.between(old, old) == traffic.NO_WINDOW, "two looks at one moment"


@pytest.mark.parametrize(
    ("counts", "expected"), [((), None), ((0, 0, 0), None), ((9, 1, 0), 2.0), ((1, 0, 9), 2.0)]
)
def test_a_quantile_is_the_bound_of_its_bucket(
    counts: tuple[int, ...], expected: float | None
) -> None:
    assert traffic.bucket_quantile(counts, 0.95, (1.0, 2.0)) == expected
