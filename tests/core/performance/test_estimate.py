"""An estimated profile has the form of a measured one, and says that it is an estimate."""

import dataclasses
import itertools
from typing import Any

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import CpuFigures, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.precision import with_dtype
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.performance import estimate as estimates
from partitiond.core.performance.estimate import batch_ladder, estimate_profile, prior_curve
from partitiond.core.profile.points import LimitedBy
from partitiond.core.profile.record import Profile, ProfileKind, operating_point
from partitiond.core.units import GIB
from partitiond.devices.fake import fake_cpu, fake_gpus
from partitiond.models.catalog import CATALOG
from partitiond.serde import from_json, to_json

WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


def estimate(name: str = "opt-1.3b", **changes: Any) -> Profile:
    arguments: dict[str, Any] = {
        "model": name,
        "architecture": CATALOG[name].architecture,
        "workload": Workload(512, 256),
        "hardware": HARDWARE["a100-40gb"],
        "size": WHOLE,
        "max_model_len": 960,
        "profile_id": "p1",
        "created_at": "2026-01-01T00:00:00Z",
        **changes,
    }
    return estimate_profile(**arguments)


def test_it_says_that_nothing_was_measured() -> None:
    profile = estimate()
    assert profile.kind is ProfileKind.ESTIMATED
    assert any("estimated" in note for note in profile.provenance.notes)
    assert any("datasheet" in note for note in profile.provenance.notes)


@pytest.mark.parametrize("name", CATALOG)
def test_points_are_powers_of_two_whose_figures_agree(name: str) -> None:
    profile = estimate(name)
    assert [p.batch for p in profile.points] == [2**n for n in range(len(profile.points))]
    for one, other in zip(profile.points, profile.points[1:], strict=False):
        assert one.output_tokens_per_s < other.output_tokens_per_s
        assert one.footprint_bytes < other.footprint_bytes
        assert one.tpot.p95 < other.tpot.p95
    for point in profile.points:
        assert point.req_per_s == pytest.approx(point.output_tokens_per_s / 256)
        assert 0 < point.ttft.mean <= point.ttft.p95 <= point.ttft.p99
        assert 0 < point.tpot.mean < point.tpot.p95 < point.tpot.p99
        # Little's law of a closed loop: requests in flight = rate x time in the system.
        assert point.req_per_s * point.e2el.mean == pytest.approx(point.batch)
        assert point.prompt_tokens_per_s == pytest.approx(512 * point.req_per_s)


def test_every_point_fits_the_partition() -> None:
    budget = 12 * GIB
    profile = estimate(memory_bytes=budget)
    assert profile.points
    assert all(point.footprint_bytes <= budget for point in profile.points)
    assert profile.knee.batch is None
    assert profile.knee.limited_by is LimitedBy.MEMORY


def test_kv_bytes_per_token_can_be_read_back_from_a_profile() -> None:
    profile = estimate()
    per_token = CATALOG["opt-1.3b"].architecture.kv_bytes_per_token
    assert profile.footprint.kv_cache_bytes == profile.kv_cache_tokens * per_token
    assert profile.kv_cache_tokens >= profile.points[-1].kv_tokens


def test_a_model_that_does_not_fit_has_no_points_but_says_what_it_needs() -> None:
    profile = estimate("opt-13b", hardware=HARDWARE["l4-24gb"])
    assert profile.points == ()
    assert profile.knee.largest_batch == 0
    assert profile.knee.limited_by is LimitedBy.MEMORY
    assert profile.footprint.peak_bytes > HARDWARE["l4-24gb"].memory_bytes
    assert operating_point(profile, None) is None


def test_an_slo_bounds_the_batch() -> None:
    profile = estimate("opt-125m")
    free = operating_point(profile, None)
    bound = operating_point(profile, Slo(ttft_seconds=0.5, tpot_seconds=0.01))
    assert free is not None
    assert bound is not None
    assert bound.batch < free.batch
    assert bound.tpot.p95 <= 0.01


def test_a_smaller_sm_share_is_slower() -> None:
    rates = [
        estimate(size=PartitionSize(SharingMode.MPS, 1, p)).points[3].output_tokens_per_s
        for p in (10, 30, 100)
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[2]


def test_a_cpu_device_is_estimated_by_its_cores() -> None:
    device = fake_cpu(cores=4, memory_bytes=16 * GIB)
    one, all_of_it = (
        estimate("smollm2-135m", hardware=device, size=PartitionSize(SharingMode.CORES, n))
        for n in (1, 4)
    )
    assert one.hardware == device.hardware
    assert one.knee.best_output_tokens_per_s < all_of_it.knee.best_output_tokens_per_s
    assert any("assumed per core" in note for note in one.provenance.notes)


def test_float32_doubles_weights_and_cache() -> None:
    architecture = CATALOG["opt-125m"].architecture
    wide = with_dtype(architecture, "float32")
    assert wide.weights_bytes == 2 * architecture.weights_bytes
    assert wide.kv_bytes_per_token == 2 * architecture.kv_bytes_per_token
    assert with_dtype(architecture, "auto") == architecture


def test_an_unknown_gpu_is_assumed_to_be_slow_but_keeps_its_memory() -> None:
    device = dataclasses.replace(fake_gpus("a100-80gb")[0], hardware="mystery-80gb")
    spec = estimates.hardware_of(device)
    assert spec.key == "mystery-80gb"
    assert spec.memory_bytes == device.memory_bytes
    assert spec.flops_16bit == min(known.flops_16bit for known in HARDWARE.values())
    assert "unknown" in spec.source


def test_usable_memory_leaves_headroom() -> None:
    assert estimates.usable_memory_bytes(HARDWARE["a100-40gb"]) < 40 * GIB - 512 * 2**20


def test_it_survives_json() -> None:
    profile = estimate()
    assert from_json(Profile, to_json(profile)) == profile


def test_refined_points_are_close_together_and_end_at_what_fits() -> None:
    profile = estimate(refined=True, memory_bytes=12 * GIB)
    batches = [p.batch for p in profile.points]
    assert set(batches) >= {1, 2, 4, 8, 16, 32}
    assert all(b <= max(a + 1, 1.25 * a) for a, b in itertools.pairwise(batches))
    one_more = estimate(max_batch=batches[-1] + 1, memory_bytes=12 * GIB, refined=True)
    assert one_more.points[-1].batch == batches[-1]


@pytest.mark.parametrize("largest", [0, 1, 2, 7, 100, 512])
def test_a_ladder_ends_where_it_is_told(largest: int) -> None:
    ladder = batch_ladder(largest)
    assert list(ladder) == sorted(set(ladder))
    assert (ladder[0], ladder[-1]) == (1, largest) if largest else ladder == ()


def test_a_prior_is_the_estimate_without_memory() -> None:
    architecture = CATALOG["opt-13b"].architecture
    curve = prior_curve(architecture, Workload(512, 256), HARDWARE["l4-24gb"], WHOLE, 64)
    assert [batch for batch, _ in curve] == list(batch_ladder(64))
    rates = [rate for _, rate in curve]
    assert rates == sorted(rates)
    profile = estimate("opt-1.3b", dtype="auto")
    known = dict(
        prior_curve(CATALOG["opt-1.3b"].architecture, Workload(512, 256), HARDWARE["a100-40gb"],
                    WHOLE, 64)
    )  # fmt: skip
    for point in profile.points[:7]:
        assert known[point.batch] == pytest.approx(point.output_tokens_per_s)


def test_measured_figures_replace_assumed_ones() -> None:
    device = fake_cpu(cores=4, memory_bytes=16 * GIB)
    slow = CpuFigures("x", 4, 1, 5e9, 8e9, 2e10, 8e10, False, "")
    size = PartitionSize(SharingMode.CORES, 2)
    assumed = estimate("smollm2-135m", hardware=device, size=size)
    measured = estimate("smollm2-135m", hardware=device, size=size, figures=slow)
    assert measured.points[3].output_tokens_per_s < assumed.points[3].output_tokens_per_s
    assert any("measured on this host" in note for note in measured.provenance.notes)


def test_a_slice_has_its_own_memory() -> None:
    size = PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb")
    budget = estimates.partition_bytes(HARDWARE["a100-40gb"], size)
    assert 4 * GIB < budget < 4864 * 2**20
    profile = estimate("opt-125m", size=size)
    assert profile.points
    assert all(p.footprint_bytes <= budget for p in profile.points)


def test_mixed_lengths_need_more_memory_and_time_than_their_means() -> None:
    fixed = estimate(max_model_len=2048)
    mixed = estimate(workload=Workload.lognormal(512, 256, 0.8, 0.8), max_model_len=2048)
    for one, other in zip(fixed.points[3:], mixed.points[3:], strict=False):
        assert other.kv_tokens > one.kv_tokens
        assert other.output_tokens_per_s < one.output_tokens_per_s
        assert other.ttft.p95 > one.ttft.p95
        assert other.e2el.p95 > one.e2el.p95
