"""Windows between two samples of the proxy's counts are computed."""

import pytest

from partitiond.core.demand import traffic
from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, TrafficWindow


def test_rates_and_means_are_of_what_happened_in_between() -> None:
    old = TrafficSample(
        10.0,
        "p",
        {"m": ModelCount(arrived=10, ok=8, output_tokens=80, prompt_tokens=16)},
        {"m-0": ReplicaCount("m", "g", ok=8, rest_seconds=1.0, rest_tokens=10)},
    )
    new = TrafficSample(
        20.0,
        "p",
        {"m": ModelCount(arrived=30, ok=28, output_tokens=480, prompt_tokens=76, waiting=3)},
        {
            "m-0": ReplicaCount(
                "m",
                "g",
                ok=28,
                rest_seconds=3.0,
                rest_tokens=30,
                sequence_seconds=40,
                busy_seconds=5,
            )
        },
    )
    window = TrafficWindow.between(old, new)
    model, replica = window.models["m"], window.replicas["m-0"]
    assert (model.req_per_s, model.ok_per_s, model.output_tokens_per_s) == (2.0, 2.0, 40.0)
    assert (model.prompt_tokens, model.output_tokens, model.waiting) == (3.0, 20.0, 3)
    assert model.ttft_seconds is None
    assert replica.tpot_seconds == pytest.approx(0.1)
    assert (replica.mean_batch, replica.busy_share) == (4.0, 0.5)


def test_what_began_anew_counts_from_its_begin() -> None:
    old = TrafficSample(
        0.0, "p", {"m": ModelCount(arrived=100)}, {"m-0": ReplicaCount("m", "g", ok=90)}
    )
    other_proxy = TrafficSample(
        1.0, "q", {"m": ModelCount(arrived=5)}, {"m-0": ReplicaCount("m", "g", ok=4)}
    )
    window = TrafficWindow.between(old, other_proxy)
    assert window.models["m"].req_per_s == 5.0
    assert window.replicas["m-0"].ok == 4
    other_engine = TrafficSample(1.0, "p", {}, {"m-0": ReplicaCount("m", "h", ok=7)})
    assert TrafficWindow.between(old, other_engine).replicas["m-0"].ok == 7


def test_two_looks_at_one_moment_say_nothing() -> None:
    sample = TrafficSample(1.0, "p", {"m": ModelCount(arrived=5)})
    assert TrafficWindow.between(sample, sample) == traffic.NO_WINDOW


@pytest.mark.parametrize(
    ("counts", "expected"), [((), None), ((0, 0, 0), None), ((9, 1, 0), 2.0), ((1, 0, 9), 2.0)]
)
def test_a_quantile_is_the_bound_of_its_bucket(
    counts: tuple[int, ...], expected: float | None
) -> None:
    assert traffic.bucket_quantile(counts, 0.95, (1.0, 2.0)) == expected
