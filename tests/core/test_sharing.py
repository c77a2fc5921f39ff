"""Plans use measured kappas, and derate where pairs were predicted wrongly."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.performance import interference
from partitiond.core.performance.interference import pair_derate
from partitiond.core.profile.sharing import PairRun, ReplicationRun, Sharing


def run(replicas: int, total: float) -> ReplicationRun:
    return ReplicationRun(
        replicas, "cores", 1, 8, (total / replicas,) * replicas, half_width=1.0,
        tpot_p95_seconds=0.01, ttft_p95_seconds=0.1, windows=4,
    )  # fmt: skip


def pair(rate: float = 100, tpot: float = 0.01, other: float = 100) -> PairRun:
    return PairRun(
        models=("a", "b"), mode="cores", cores_each=(1, 1), batches=(8, 8),
        alone_output_tokens_per_s=(100, 100), predicted_output_tokens_per_s=(100, 100),
        measured_output_tokens_per_s=(rate, other), half_widths=(1, 1),
        predicted_tpot_p95_seconds=(0.01, 0.01), measured_tpot_p95_seconds=(tpot, 0.01), windows=4,
    )  # fmt: skip


def test_good_predictions_cost_nothing() -> None:
    pairs = [pair(95), pair(104), pair(99, 0.0105)]
    assert pair_derate(pairs) == 0
    assert pair_derate([]) == 0


def test_bad_predictions_are_derated_only_on_the_harmful_side() -> None:
    faster = [pair(150, 0.006, 150)]
    assert pair_derate(faster) == 0
    assert pair_derate([pair(60, 0.016, 60)]) == pytest.approx(0.4, abs=0.01)


def sharing_of(kappa: float, *pairs: PairRun, measured: bool = True) -> Sharing:
    runs = (run(1, 10), run(2, 15)) if measured else ()
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
