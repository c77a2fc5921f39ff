"""The measured footprint is split into terms, and each batch gets its part."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import EngineLimits, kv_cache_bytes, kv_tokens
from partitiond.core.units import GIB
from partitiond.profiler.fit import (
    explain_footprint,
    point_footprint,
    resident_kv_bytes,
)

MODEL = Architecture("llama", 135_000_000, 576, 30, 9, 3, 64, 1536, 49152, 2048)


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
    needed = kv_cache_bytes(MODEL, kv_tokens(8, load, 256, 128), 128)
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
