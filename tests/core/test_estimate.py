"""An estimated profile looks like a measured one, and says that it is none."""

import dataclasses
from typing import Any

import pytest

from partitiond.core.estimate import (
    estimate_profile,
    hardware_of,
    usable_memory_bytes,
    with_dtype,
)
from partitiond.core.hardware import HARDWARE, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.profile import LimitedBy, Profile, ProfileKind, operating_point
from partitiond.core.spec import Slo
from partitiond.core.units import GIB
from partitiond.core.workload import Workload
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
    spec = hardware_of(device)
    assert spec.key == "mystery-80gb"
    assert spec.memory_bytes == device.memory_bytes
    assert spec.flops_16bit == min(known.flops_16bit for known in HARDWARE.values())
    assert "unknown" in spec.source


def test_usable_memory_leaves_headroom() -> None:
    assert usable_memory_bytes(HARDWARE["a100-40gb"]) < 40 * GIB - 512 * 2**20


def test_it_survives_json() -> None:
    profile = estimate()
    assert from_json(Profile, to_json(profile)) == profile
