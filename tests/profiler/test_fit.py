"""Step time and footprint fitted to operating points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.architecture import Architecture
from partitiond.core.footprint import EngineLimits, kv_cache_bytes, kv_tokens
from partitiond.core.hardware import DeviceKind
from partitiond.core.profile import Latency, OperatingPoint
from partitiond.core.units import GIB, Bytes
from partitiond.core.workload import Workload
from partitiond.profiler.fit import (
    explain_footprint,
    fit_step_time,
    point_footprint,
    point_kv_bytes,
    resident_kv_bytes,
)

NONE = Latency(0, 0, 0, 0)
MODEL = Architecture("llama", 135_000_000, 576, 30, 9, 3, 64, 1536, 49152, 2048)


def point(batch: int, rate: float, *, kv_limited: bool = False) -> OperatingPoint:
    return OperatingPoint(
        batch, rate, 0.0, rate, NONE, NONE, NONE, NONE, 0, Bytes(0), kv_limited=kv_limited
    )


@given(st.floats(1e-4, 1.0), st.floats(1e-5, 0.1))
def test_exact_points_give_back_their_step_time(base: float, slope: float) -> None:
    fitted = fit_step_time([point(b, b / (base + slope * b)) for b in (1, 2, 4, 8, 16, 32)])
    assert fitted is not None
    assert fitted.base_seconds == pytest.approx(base, rel=1e-3, abs=1e-7)
    assert fitted.per_sequence_seconds == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert fitted.residual_share < 1e-3
    assert fitted.output_tokens_per_s(24) == pytest.approx(24 / (base + slope * 24), rel=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(1, 512), st.floats(1, 1e5)),
        min_size=2,
        max_size=8,
        unique_by=lambda row: row[0],
    )
)
def test_no_step_takes_less_than_no_time(rows: list[tuple[int, float]]) -> None:
    fitted = fit_step_time([point(b, rate) for b, rate in rows])
    assert fitted is not None
    assert fitted.base_seconds >= 0
    assert fitted.per_sequence_seconds >= 0


def test_one_batch_or_only_limited_ones_give_no_fit() -> None:
    assert fit_step_time([point(4, 100)]) is None
    assert fit_step_time([point(4, 100), point(8, 100, kv_limited=True)]) is None


def test_the_terms_and_the_rest_add_up_to_the_peak() -> None:
    measured = explain_footprint(
        MODEL,
        EngineLimits(32, 256),
        DeviceKind.CPU,
        started_kv_bytes=GIB // 2,
        peak_bytes=3 * GIB,
    )
    terms = measured.weights_bytes + measured.kv_cache_bytes + measured.activation_bytes
    terms += measured.graph_bytes + measured.context_bytes
    assert terms + measured.unexplained_bytes == measured.peak_bytes == 3 * GIB


def test_on_a_cpu_only_written_kv_pages_are_taken_off_the_peak() -> None:
    load = Workload(64, 32)
    resident = resident_kv_bytes(
        MODEL, DeviceKind.CPU, started_kv_bytes=GIB, largest_batch=64, workload=load
    )
    assert resident == 64 * 96 * MODEL.kv_bytes_per_token
    whole = resident_kv_bytes(
        MODEL, DeviceKind.GPU, started_kv_bytes=GIB, largest_batch=64, workload=load
    )
    assert whole == GIB
    needed = point_kv_bytes(MODEL, 8, load, 256, 128)
    assert needed == kv_cache_bytes(MODEL, needed // MODEL.kv_bytes_per_token, 128)
    assert point_footprint(3 * GIB, resident, needed) == 3 * GIB - resident + needed


def test_a_small_cache_is_never_taken_off_twice() -> None:
    load = Workload(64, 32)
    assert (
        resident_kv_bytes(
            MODEL, DeviceKind.CPU, started_kv_bytes=100, largest_batch=64, workload=load
        )
        == 100
    )


@given(st.integers(1, 512), st.integers(1, 600), st.integers(1, 300), st.sampled_from([16, 128]))
def test_the_kv_cache_holds_a_full_batch_without_waiting(
    batch: int, prompt: int, output: int, block: int
) -> None:
    load = Workload(prompt, output)
    needed = kv_tokens(batch, load, 256, block)
    assert needed >= kv_tokens(batch, load, 256, block)
    held = [-(-(prompt + i) // block) * block for i in range(1, output + 1)]
    assert needed >= batch * sum(held) / len(held) - 1


def test_two_blocks_from_the_first_token_on_are_two_blocks() -> None:
    assert kv_tokens(64, Workload(128, 16), 256, 128) == 64 * 256
