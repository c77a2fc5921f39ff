"""Measurements in one place predict another place, within the promised error."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance import transfer_check
from partitiond.core.performance.roofline import BANDWIDTH_EFFICIENCY, rates
from partitiond.core.performance.transfer import transfer_profile
from partitiond.core.performance.transfer_check import DEFAULT_ERROR, distance, error_band
from partitiond.core.performance.transfer_fit import Source, Subject, TermFit, fit_terms
from partitiond.core.profile.points import LimitedBy
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB
from partitiond.serde import from_json, to_json
from tests.core import transfer_samples
from tests.core.transfer_samples import (
    A100,
    BATCHES,
    TRUTH,
    WHOLE,
    cores,
    predicted,
    rate,
    source,
    subject,
)


def worst(known: list[Source], wanted: Subject) -> float:
    fit = fit_terms(known)
    return max(
        abs(transfer_check.predicted_output_tokens_per_s(fit, wanted, b) / rate(wanted, b) - 1)
        for b in BATCHES
    )


def test_what_was_measured_is_predicted_back() -> None:
    profile = predicted([source(subject())], subject())
    for batch in BATCHES:
        point = profile.point(batch)
        assert point is not None
        assert point.output_tokens_per_s == pytest.approx(rate(subject(), batch), rel=0.03)
        assert point.tpot.p95 == pytest.approx(1.2 * point.tpot.mean)


def test_two_core_counts_tell_apart_what_scales_with_cores() -> None:
    wanted = subject(size=cores(4))
    one = worst([source(subject(size=cores(1)))], wanted)
    both = worst([source(subject(size=cores(1))), source(subject(size=cores(2)))], wanted)
    naive = max(abs(4 * rate(subject(), b) / rate(wanted, b) - 1) for b in BATCHES)
    assert both <= one
    assert both < 0.05
    assert one < 0.5 * naive


@pytest.mark.parametrize("model", ["opt-125m", "opt-1.3b", "qwen2.5-0.5b"])
def test_another_model_of_any_size_is_predicted_better_than_by_parameters(model: str) -> None:
    here, there = subject(), subject(model)
    ratio = here.architecture.parameters / there.architecture.parameters
    naive = max(abs(rate(here, b) * ratio / rate(there, b) - 1) for b in BATCHES)
    assert worst([source(here)], there) < min(naive, 0.25)


def test_another_gpu_is_predicted_by_its_bandwidth_and_arithmetic() -> None:
    chat = Workload(512, 256)
    known = [source(subject("opt-1.3b", transfer_samples.WHOLE, chat, A100))]
    for key in ("h100-80gb", "l4-24gb", "t4-16gb"):
        assert worst(known, subject("opt-1.3b", transfer_samples.WHOLE, chat, HARDWARE[key])) < 0.2
    slice_of = PartitionSize(SharingMode.MIG, 1, 100, "2g.10gb")
    assert worst(known, subject("opt-1.3b", slice_of, chat, A100)) < 0.2


def test_with_several_the_band_comes_from_predicting_each_from_the_others() -> None:
    known = [source(subject(size=cores(n)), noise=0.02, seed=n) for n in (1, 2, 4)]
    checks = transfer_check.leave_one_out(known)
    assert len(checks) == 3
    profile = predicted(known, subject(size=cores(3)))
    assert profile.transfer is not None
    assert profile.transfer.error_share < DEFAULT_ERROR
    assert known[0].profile.id in profile.transfer.source_ids
    missed = worst(known, subject(size=cores(3)))
    assert missed <= profile.transfer.error_share


@given(st.integers(1, 7))
def test_the_band_grows_with_distance(count: int) -> None:
    known = [source(subject(), noise=0.02)]
    fit = fit_terms(known)
    near, far = (subject(size=cores(n)) for n in (count, count + 1))
    assert distance(known[0].subject, near, fit) <= distance(known[0].subject, far, fit)
    assert error_band(known, near, fit) <= error_band(known, far, fit)


def test_a_transferred_profile_says_what_it_is_and_survives_json() -> None:
    profile = predicted([source(subject())], subject("opt-125m", cores(2)))
    assert profile.kind is ProfileKind.TRANSFERRED
    assert profile.model == "opt-125m"
    assert profile.provenance.model_revision is None
    assert any("nothing was measured here" in note for note in profile.provenance.notes)
    assert from_json(Profile, to_json(profile)) == profile


def test_memory_bounds_the_batches() -> None:
    known = [source(subject())]
    roomy = predicted(known, subject(), memory_bytes=8 * GIB)
    tight = predicted(known, subject(), memory_bytes=2 * GIB + 2**26)
    assert tight.points
    assert len(tight.points) < len(roomy.points)
    assert all(p.footprint_bytes <= 2 * GIB + 2**26 for p in tight.points)
    none = predicted(known, subject(), memory_bytes=GIB)
    assert none.points == ()
    assert none.knee.limited_by is LimitedBy.MEMORY


def test_what_teaches_nothing_is_refused() -> None:
    known = source(subject())
    with pytest.raises(SpecError, match="not measured"):
        predicted([transfer_samples.estimated(known)], subject())
    with pytest.raises(SpecError, match="says nothing about a GPU"):
        predicted([known], subject("opt-125m", transfer_samples.WHOLE, hardware=A100))
    empty = dataclasses.replace(known, profile=dataclasses.replace(known.profile, points=()))
    with pytest.raises(SpecError, match="at least one point"):
        predicted([empty], subject())


NOW = "2026-01-01T00:00:00Z"


def of_batches(wanted: Subject, *batches: int, truth: TermFit = TRUTH, **more: Any) -> Source:
    full = source(wanted, truth=truth, **more)
    points = tuple(point for point in full.profile.points if point.batch in batches)
    return dataclasses.replace(full, profile=dataclasses.replace(full.profile, points=points))


CODER = subject("qwen2.5-coder-7b", WHOLE, Workload(512, 256), A100)
SLICE = dataclasses.replace(CODER, size=PartitionSize(SharingMode.MIG, 1, 100, "4g.20gb"))
UNLIKE = TermFit(2.0, 2.0, 0.8, 0.8, 0.8, 0.0, 0)
"""An engine whose two groups of terms differ by more than any that was measured."""


@pytest.mark.parametrize("truth", [TermFit(1, 1, 1, 1, 1, 0, 0), TRUTH, UNLIKE])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_single_batch_says_little_of_others_and_is_never_far_off(
    batch: int, truth: TermFit
) -> None:
    """Without knowing what grows with the batch it is one factor, with an estimate's margin."""
    one = of_batches(CODER, batch, truth=truth)
    made = transfer_profile([one], CODER, 960, profile_id="x", created_at=NOW)
    assert {point.batch for point in made.points} <= {batch // 2, batch, 2 * batch}
    for point in made.points:
        error = point.output_tokens_per_s / rate(CODER, point.batch, truth) - 1
        assert abs(error) < 0.35
    assert made.transfer is not None
    assert made.transfer.error_share >= 0.3
    assert "1 points of 1 batches" in made.transfer.method


@pytest.mark.parametrize("seed", range(8))
def test_two_batches_close_together_and_noisy_promise_no_multiple(seed: int) -> None:
    close = of_batches(CODER, 16, 32, noise=0.03, seed=seed)
    made = transfer_profile([close], SLICE, 960, profile_id="x", created_at=NOW)
    for point in made.points:
        assert 0.6 < point.output_tokens_per_s / rate(SLICE, point.batch) < 1.5


def test_batches_far_apart_tell_groups_apart_that_differ() -> None:
    found = fit_terms([of_batches(CODER, 1, 8, 32, truth=UNLIKE)])
    assert found.weights == pytest.approx(2.0, rel=0.1)
    assert found.compute == pytest.approx(0.8, rel=0.15)


def test_nothing_is_promised_that_physics_forbids() -> None:
    """Weights are read at the datasheet's bandwidth at best, whatever a source seems to say."""
    fast = source(CODER, truth=TermFit(0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0))
    made = transfer_profile([fast], SLICE, 960, profile_id="x", created_at=NOW)
    assert made.points
    share = rates(A100, SLICE.size).bytes_per_s / BANDWIDTH_EFFICIENCY
    for point in made.points:
        assert point.batch / point.output_tokens_per_s >= CODER.loaded.weights_bytes / share
