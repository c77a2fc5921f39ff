"""Sigma and its levels follow their formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import (
    DEFAULT,
    level_of,
    mode_overhead_bytes,
    sigma,
)
from partitiond.core.performance.replicas import sigma_of
from partitiond.core.performance.rounds import RoundTerms
from partitiond.core.units import MIB

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)
MODES = st.sampled_from((SharingMode.MEMORY, SharingMode.MPS, SharingMode.CORES))


def test_two_saturated_replicas_take_turns_and_shares_that_fit_cost_only_the_crowd() -> None:
    assert sigma(SharingMode.MEMORY, [1.0]) == sigma(SharingMode.MPS, [0.2]) == 1.0, "alone"
    assert sigma(SharingMode.MEMORY, [1.0, 1.0]) == pytest.approx(2.1)
    assert level_of(SharingMode.MEMORY, 2 * 1.05) == 2.1
    assert sigma(SharingMode.MPS, [0.3, 0.3, 0.3]) == pytest.approx(1.04)
    assert level_of(SharingMode.MPS, 1.04) == 1.04
    assert level_of(SharingMode.MEMORY, 5.0) is None


@given(MODES, SHARES, st.floats(0, 1))
def test_one_more_replica_never_makes_it_faster(
    mode: SharingMode, busy: list[float], more: float
) -> None:
    assert sigma(mode, [*busy, more]) >= sigma(mode, busy) - 1e-12


@given(MODES, SHARES)
def test_a_level_promises_no_more_than_sigma(mode: SharingMode, busy: list[float]) -> None:
    value = sigma(mode, busy)
    level = level_of(mode, value)
    if level is not None:
        assert level >= value * (1 - 1e-7)
        assert level in DEFAULT.levels_of(mode)


@given(MODES, SHARES, st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=8, max_size=8))
def test_the_largest_kappa_on_a_device_counts(
    mode: SharingMode, busy: list[float], kappas: list[float | None]
) -> None:
    mine = kappas[: len(busy)]
    default = DEFAULT.kappa(mode)
    worst = max(default if k is None else k for k in mine)
    together = sigma(mode, busy, kappas=mine)
    assert together == pytest.approx(sigma(mode, busy, kappas=[worst] * len(busy)))
    assert together >= sigma(mode, busy, kappas=[min(default if k is None else k for k in mine)])


def test_a_measured_kappa_below_the_default_counts_as_measured() -> None:
    assert sigma(SharingMode.MEMORY, [0.5, 0.5], kappas=[0.0, 0.0]) == 1.0
    assert sigma(SharingMode.MEMORY, [0.5, 0.5], kappas=[0.0, None]) == pytest.approx(1.05)


def test_only_the_mps_server_takes_memory_by_itself() -> None:
    taken = {mode: mode_overhead_bytes(mode) for mode in SharingMode}
    assert taken.pop(SharingMode.MPS) == 256 * MIB
    assert set(taken.values()) == {0}


@pytest.mark.parametrize(
    ("mode", "parts", "replicas", "slowed"),
    [
        (SharingMode.MPS, (0.5, 0.2, 0.3), 4, 2.0 * 1.06),  # arithmetic is what is short
        (SharingMode.MPS, (0.2, 0.5, 0.3), 4, 2.0 * 1.06),
        (SharingMode.MPS, (0.2, 0.1, 0.7), 4, 1.06),  # launches take no share of the device
        (SharingMode.MEMORY, (0.5, 0.2, 0.3), 4, 4 * 0.8 * 1.15),  # but of its time
        (SharingMode.MEMORY, (0.9, 0.2, 0.3), 2, 2.0 * 1.05),  # busy all the time at most
        (SharingMode.MPS, (0.5, 0.2, 0.3), 1, 1.0),
        (SharingMode.MIG, (0.5, 0.2, 0.3), 4, 1.0),
    ],
)
def test_equal_replicas_share_what_each_takes_of_a_round(
    mode: SharingMode, parts: tuple[float, float, float], replicas: int, slowed: float
) -> None:
    """`parts` of a round: arithmetic, traffic, launches."""
    compute, traffic, fixed = parts
    terms = RoundTerms(fixed, traffic / 2, compute, traffic / 2, sequences=0.0)
    assert sigma_of(terms, 1.0, replicas, mode) == pytest.approx(slowed)
