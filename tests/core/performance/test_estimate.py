"""An estimated profile has the form of a measured one, and says that it is an estimate."""

import dataclasses
import itertools
from typing import Any

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode, headroom_bytes
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance import estimate as estimates
from partitiond.core.performance.estimate import batch_ladder, estimate_profile, prior_curve
from partitiond.core.performance.roofline import SERVER_REQUEST_SECONDS, SERVER_TOKEN_SECONDS
from partitiond.core.performance.transfer_fit import Subject, subject_of
from partitiond.core.profile.points import LimitedBy
from partitiond.core.profile.record import Profile, ProfileKind, operating_point
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.models.catalog import CATALOG
from tests.devices.fake import fake_cpu, fake_gpus

WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)
SLICE = PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb")


def estimate(name: str = "opt-1.3b", **changes: Any) -> Profile:
    """The estimate on an A100, or on the given hardware or device."""
    device = changes.pop("device", None)
    kind = changes.pop("hardware", HARDWARE["a100-40gb"])
    if device is not None:
        kind = estimates.hardware_of(device)
    source = ModelSource(SourceKind.CONFIG, name)
    options = EngineOptions(dtype=changes.pop("dtype", "auto"))
    workload = changes.pop("workload", Workload(512, 256))
    spec = ModelSpec(name, source, workload=workload, engine=options)
    subject = subject_of(spec, CATALOG[name].architecture, kind, changes.pop("size", WHOLE))
    longest = changes.pop("max_model_len", 960)
    return estimate_profile(subject, longest, device=device, **changes)


@pytest.mark.parametrize("name", CATALOG)
def test_points_are_powers_of_two_whose_figures_agree(name: str) -> None:
    profile = estimate(name)
    assert [p.batch for p in profile.points] == [2**n for n in range(len(profile.points))]
    for one, other in zip(profile.points, profile.points[1:], strict=False):
        assert one.output_tokens_per_s <= other.output_tokens_per_s
        assert one.footprint_bytes < other.footprint_bytes
        assert one.tpot.p95 < other.tpot.p95
    for point in profile.points:
        assert point.req_per_s == pytest.approx(point.output_tokens_per_s / 256)
        assert 0 < point.ttft.mean <= point.ttft.p95 <= point.ttft.p99
        assert 0 < point.tpot.mean < point.tpot.p95 < point.tpot.p99
        # Little's law of a closed loop: requests in flight = rate x time in the system.
        assert point.req_per_s * point.e2el.mean == pytest.approx(point.batch)
        assert point.prompt_tokens_per_s == pytest.approx(512 * point.req_per_s)


def test_an_engine_on_a_gpu_sends_no_more_than_its_server_can() -> None:
    """The paper's smallest model gains little beyond a batch of 128; requests wait for the rest."""
    most = 1 / (SERVER_TOKEN_SECONDS + SERVER_REQUEST_SECONDS / 256)
    profile = estimate("opt-125m")
    assert profile.knee.batch == 128
    at_128, at_512 = profile.point(128), profile.point(512)
    assert at_128 is not None
    assert at_512 is not None
    assert at_512.output_tokens_per_s == pytest.approx(most)
    assert at_512.tpot.mean > 3 * at_128.tpot.mean
    assert at_512.itl.mean > 3 * at_128.itl.mean
    assert at_512.ttft.mean > 3 * at_128.ttft.mean
    larger = estimate("opt-1.3b")
    assert larger.knee.best_output_tokens_per_s < most / 2


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


def test_a_cpu_device_is_estimated_by_its_cores() -> None:
    device = fake_cpu(cores=4, memory_bytes=16 * GIB)
    one, four = (
        estimate("smollm2-135m", device=device, size=PartitionSize(SharingMode.CORES, n))
        for n in (1, 4)
    )
    assert one.hardware == device.hardware
    assert one.knee.best_output_tokens_per_s < four.knee.best_output_tokens_per_s
    assert any("assumed per core" in note for note in one.provenance.notes)


def test_a_cpu_without_bfloat16_computes_in_32_bits_and_is_slower_in_the_type_it_emulates() -> None:
    device = dataclasses.replace(fake_cpu(cores=4, memory_bytes=16 * GIB), native_dtype="float32")
    one = PartitionSize(SharingMode.CORES, 1)
    by_itself, emulated = (
        estimate("smollm2-135m", device=device, size=one, dtype=dtype)
        for dtype in ("auto", "bfloat16")
    )
    assert (by_itself.dtype, emulated.dtype) == ("float32", "bfloat16")
    assert by_itself.footprint.weights_bytes == 2 * emulated.footprint.weights_bytes
    assert by_itself.points[4].output_tokens_per_s > 2 * emulated.points[4].output_tokens_per_s


def test_an_unknown_gpu_is_assumed_to_be_slow_but_keeps_its_memory() -> None:
    device = dataclasses.replace(fake_gpus("a100-80gb")[0], hardware="mystery-80gb")
    spec = estimates.hardware_of(device)
    assert spec.key == "mystery-80gb"
    assert spec.memory_bytes == device.memory_bytes
    assert spec.flops_16bit == min(known.flops_16bit for known in HARDWARE.values())
    assert "unknown" in spec.source
    assert spec.tdp_watts is None, "nor is its power"


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


@pytest.mark.parametrize(
    ("name", "busy", "active"),
    [
        ("opt-125m", 0.59, (0.12, 0.37)),
        ("opt-1.3b", 0.91, (0.55, 0.81)),
        ("opt-2.7b", 0.95, (0.69, 0.88)),
    ],
)
def test_the_gpu_waits_for_the_host_of_a_small_model(
    name: str, busy: float, active: tuple[float, float]
) -> None:
    """So time-sliced replicas gain much, less and little, as in the paper's Figure 5, and SMs work
    longer with larger batches and models (Figures 3 and 4)."""
    points = [(p, p.telemetry) for p in estimate(name).points if p.telemetry]
    of_batch = {p.batch: told for p, told in points}
    assert of_batch[128].gpu_util == pytest.approx(busy, abs=0.01)
    assert [of_batch[b].sm_activity for b in (1, 128)] == pytest.approx(active, abs=0.01)
    for p, told in points:
        assert told.power_watts == pytest.approx(400 * (0.15 + 0.85 * (told.sm_activity or 0)))
        drawn = (p.joules_per_output_token or 0) * p.output_tokens_per_s
        assert drawn == pytest.approx(told.power_watts)


def test_a_prior_is_the_estimate_without_memory() -> None:
    def subject(name: str, hardware: str) -> Subject:
        return Subject(
            name, CATALOG[name].architecture, HARDWARE[hardware], WHOLE, Workload(512, 256)
        )

    curve = prior_curve(subject("opt-13b", "l4-24gb"), 64)
    assert [batch for batch, _ in curve] == list(batch_ladder(64))
    rates = [rate for _, rate in curve]
    assert rates == sorted(rates)
    profile = estimate("opt-1.3b", dtype="auto")
    known = dict(prior_curve(subject("opt-1.3b", "a100-40gb"), 64))
    for point in profile.points[:7]:
        assert known[point.batch] == pytest.approx(point.output_tokens_per_s)


def test_mixed_lengths_need_more_memory_and_time_than_their_means() -> None:
    fixed = estimate(max_model_len=2048)
    mixed = estimate(workload=Workload.lognormal(512, 256, 0.8, 0.8), max_model_len=2048)
    for one, other in zip(fixed.points[3:], mixed.points[3:], strict=False):
        assert other.kv_tokens > one.kv_tokens
        assert other.output_tokens_per_s < one.output_tokens_per_s
        assert other.ttft.p95 > one.ttft.p95
        assert other.e2el.p95 > one.e2el.p95


def test_every_point_fits_the_partition_and_says_that_nothing_was_measured() -> None:
    profile, small = estimate(memory_bytes=12 * GIB), estimate("opt-125m", size=SLICE)
    assert profile.kind is ProfileKind.ESTIMATED
    notes = " ".join(profile.provenance.notes)
    assert "estimated" in notes
    assert "datasheet" in notes
    assert (profile.knee.batch, profile.knee.limited_by) == (None, LimitedBy.MEMORY)
    budget = estimates.partition_bytes(HARDWARE["a100-40gb"], SLICE)
    assert budget == 4864 * MIB - 512 * MIB
    for found, most in ((profile, 12 * GIB), (small, budget)):
        assert found.points
        assert all(point.footprint_bytes <= most for point in found.points)


def test_usable_memory_is_what_reservation_and_headroom_leave() -> None:
    (device,) = fake_gpus("a100-80gb")
    total = device.memory_bytes
    left = total - headroom_bytes(total)
    for reserved, usable in ((0, left), (GIB, left - GIB), (total, 0)):
        there = dataclasses.replace(device, reserved_bytes=Bytes(reserved))
        assert estimates.usable_memory_bytes(there) == usable
    spec = HARDWARE["a100-40gb"]
    expected = spec.memory_bytes - headroom_bytes(spec.memory_bytes)
    assert estimates.usable_memory_bytes(spec) == expected
