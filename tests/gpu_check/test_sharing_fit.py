"""Replication runs give kappa and u."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.profiler.sharing_fit import Single, fit_sharing, predict_shared
from partitiond.core.errors import ProfileError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance import interference
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.sharing import ReplicationRun, Sharing

MODES = st.sampled_from((SharingMode.MEMORY, SharingMode.MPS, SharingMode.CORES))


def run(
    replicas: int, total: float, mode: SharingMode = SharingMode.MEMORY, *, cores: int = 1,
    telemetry: Telemetry | None = None,
) -> ReplicationRun:  # fmt: skip
    return ReplicationRun(
        replicas, mode.value, cores, 8, (total / replicas,) * replicas, half_width=1.0,
        tpot_p95_seconds=0.01, ttft_p95_seconds=0.1, windows=4, telemetry=telemetry,
    )  # fmt: skip


def true_runs(
    busy: float, kappa: float, counts: Sequence[int], mode: SharingMode = SharingMode.MEMORY
) -> list[ReplicationRun]:
    """What replicas of a known u and kappa do, 1000 tokens/s alone."""
    return [
        run(n, n * 1000 / (max(1, n * busy) * (1 + kappa * (n - 1))), mode) for n in (1, *counts)
    ]


def explained(sharing: Sharing, replicas: int) -> float:
    """The sum that the fit expects of so many replicas."""
    mode = SharingMode(sharing.mode)
    slow = interference.sigma(mode, [sharing.busy] * replicas, kappas=[sharing.kappa])
    return replicas * 1000 / slow


@given(
    st.floats(0, 1), st.floats(0, 0.5), st.sets(st.integers(2, 8), min_size=1, max_size=5), MODES
)
def test_the_fit_explains_what_it_was_fitted_to(
    busy: float, kappa: float, counts: set[int], mode: SharingMode
) -> None:
    runs = true_runs(busy, kappa, sorted(counts), mode)
    sharing = fit_sharing(runs)
    assert 0 <= sharing.busy <= 1
    assert sharing.kappa >= 0
    for each in runs:
        assert explained(sharing, each.replicas) == pytest.approx(
            each.total_output_tokens_per_s, rel=0.01
        )


@given(st.floats(0.6, 1), st.floats(0, 0.3))
def test_both_are_found_where_more_replicas_only_wait(busy: float, kappa: float) -> None:
    sharing = fit_sharing(true_runs(busy, kappa, (2, 3, 4, 5)))
    assert sharing.busy == pytest.approx(busy, abs=0.03)
    assert sharing.kappa == pytest.approx(kappa, abs=0.03)


def test_replicas_that_gain_nothing_are_saturated_and_lose_by_kappa() -> None:
    sharing = fit_sharing([run(1, 1000), run(2, 900)])
    assert sharing.busy == 1
    assert sharing.kappa == pytest.approx(2 / 1.8 - 1)
    lucky = fit_sharing([run(1, 1000), run(2, 3000), run(3, 3000)])
    assert lucky.kappa >= 0
    assert 0 < lucky.busy <= 1


def test_telemetry_says_u_where_it_is_exposed() -> None:
    seen = Telemetry("nvml-gpm", gpu_util=0.9, sm_activity=0.2, dram_activity=0.35)
    for mode, busy in ((SharingMode.MEMORY, 0.9), (SharingMode.MPS, 0.35)):
        runs = [run(1, 1000, mode, telemetry=seen), run(2, 1500, mode, telemetry=seen)]
        assert fit_sharing(runs).busy == busy
    cpu = Telemetry("procfs", cores_used=0.9)
    runs = [
        run(1, 1000, SharingMode.CORES, telemetry=cpu),
        run(2, 1600, SharingMode.CORES, telemetry=cpu),
    ]
    assert fit_sharing(runs).busy == pytest.approx(1000 / 1600)


def test_a_crowd_is_compared_with_one_at_its_own_batch() -> None:
    """Two at 256 each and four at 128 each lose nothing; one alone at 128 is slower than at 256."""
    batch = {1: 256, 2: 256, 4: 128}
    runs = [
        dataclasses.replace(run(n, total, SharingMode.MPS), batch_each=batch[n])
        for n, total in ((1, 1000.0), (2, 2000.0), (4, 2400.0))
    ]
    runs.append(dataclasses.replace(run(1, 600, SharingMode.MPS), batch_each=128))
    assert fit_sharing(runs).kappa == 0


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([], "one sharing mode"),
        ([run(1, 10), run(2, 10, SharingMode.MPS)], "one sharing mode"),
        ([run(2, 10), run(3, 10)], "alone beside several"),
        ([run(1, 10)], "alone beside several"),
    ],
)
def test_what_cannot_be_fitted_is_refused(runs: list[ReplicationRun], says: str) -> None:
    with pytest.raises(ProfileError, match=says):
        fit_sharing(runs)


def test_a_pair_is_predicted_as_sigma_says() -> None:
    singles = [Single(100, 0.01, 0.6, 0.1), Single(200, 0.02, 0.6)]
    found = predict_shared(SharingMode.CORES, singles)
    assert found.sigma == pytest.approx(1.2 * 1.1)
    assert found.output_tokens_per_s == pytest.approx((100 / found.sigma, 200 / found.sigma))
    assert found.tpot_p95_seconds == pytest.approx((0.01 * found.sigma, 0.02 * found.sigma))
