"""Replication runs give kappa and u, and plans use both."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import ProfileError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance import interference
from partitiond.core.performance.interference import fit_sharing, pair_derate
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.sharing import PairRun, ReplicationRun, Sharing

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


def test_on_a_cpu_only_engines_of_one_size_are_compared() -> None:
    """One engine on two cores is another engine, not a replica of those on one."""
    runs = [
        run(1, 1500, SharingMode.CORES, cores=2),
        run(1, 1000, SharingMode.CORES),
        run(2, 1800, SharingMode.CORES),
    ]
    sharing = fit_sharing(runs)
    assert sharing.busy == pytest.approx(1000 / 1800)
    assert sharing.runs == tuple(runs)
    with pytest.raises(ProfileError, match="alone beside several"):
        fit_sharing(runs, cores_each=2)


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


# -- pairs -----------------------------------------------------------------------------------


def pair(rate: float = 100, tpot: float = 0.01, other: float = 100) -> PairRun:
    return PairRun(
        models=("a", "b"), mode="cores", cores_each=(1, 1), batches=(8, 8),
        alone_output_tokens_per_s=(100, 100), predicted_output_tokens_per_s=(100, 100),
        measured_output_tokens_per_s=(rate, other), half_widths=(1, 1),
        predicted_tpot_p95_seconds=(0.01, 0.01), measured_tpot_p95_seconds=(tpot, 0.01), windows=4,
    )  # fmt: skip


def test_a_pair_is_predicted_as_sigma_says() -> None:
    singles = [interference.Single(100, 0.01, 0.6, 0.1), interference.Single(200, 0.02, 0.6)]
    found = interference.predict_shared(SharingMode.CORES, singles)
    assert found.sigma == pytest.approx(1.2 * 1.1)
    assert found.output_tokens_per_s == pytest.approx((100 / found.sigma, 200 / found.sigma))
    assert found.tpot_p95_seconds == pytest.approx((0.01 * found.sigma, 0.02 * found.sigma))


def test_good_predictions_cost_nothing() -> None:
    pairs = [pair(95), pair(104), pair(99, 0.0105)]
    errors = interference.pair_errors(pairs)
    assert errors is not None
    assert errors.count == 12
    assert errors.worst == pytest.approx(0.05, abs=0.003)
    assert errors.median <= errors.p90 <= errors.worst
    assert pair_derate(pairs) == 0
    assert interference.pair_errors([]) is None
    assert pair_derate([]) == 0


def test_bad_predictions_are_derated_only_on_the_harmful_side() -> None:
    faster = [pair(150, 0.006, 150)]
    errors = interference.pair_errors(faster)
    assert errors is not None
    assert errors.p90 > interference.DERATE_FROM
    assert pair_derate(faster) == 0
    assert pair_derate([pair(60, 0.016, 60)]) == pytest.approx(0.4, abs=0.01)


def sharing_of(kappa: float, *pairs: PairRun, measured: bool = True) -> Sharing:
    runs = (run(1, 10, SharingMode.CORES), run(2, 15, SharingMode.CORES)) if measured else ()
    return Sharing("cores", kappa, 0.5, runs, tuple(pairs))


@given(st.floats(0, 1), st.floats(0, 60), st.integers(2, 6))
def test_a_derated_kappa_covers_the_error_on_every_device(
    kappa: float, rate: float, replicas: int
) -> None:
    wrong = pair(rate, 0.01, rate)
    planned = interference.planned_kappa(sharing_of(kappa, wrong))
    assert planned is not None
    derate = pair_derate([wrong])
    wanted = (1 + kappa * (replicas - 1)) / (1 - derate)
    assert 1 + planned * (replicas - 1) >= wanted * (1 - 1e-7)


@given(st.floats(0, 3))
def test_measured_kappas_are_rounded_up_to_a_few(kappa: float) -> None:
    planned = interference.planned_kappa(sharing_of(kappa))
    assert planned in interference.KAPPA_STEPS
    assert planned is not None
    assert planned >= kappa - 1e-7


def test_without_runs_the_modes_default_holds_unless_pairs_were_wrong() -> None:
    assert interference.planned_kappa(sharing_of(0.3, pair(), measured=False)) is None
    planned = interference.planned_kappa(sharing_of(0.3, pair(50, 0.02, 50), measured=False))
    assert planned == 1.0
    assert interference.planned_kappa(dataclasses.replace(sharing_of(0.04), pairs=())) == 0.05
