"""Step times follow from arithmetic and traffic."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance import roofline
from partitiond.core.performance.roofline import Step, rates, step_bytes, step_flops
from partitiond.core.performance.rounds import RoundCase
from partitiond.core.units import GIB
from partitiond.models.catalog import CATALOG
from tests.core.performance.test_rounds import MOE

OPT = CATALOG["opt-1.3b"].architecture
A100 = HARDWARE["a100-40gb"]
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


def test_the_work_of_a_step_is_that_of_the_definitions() -> None:
    assert roofline.flops_per_token(OPT, 640) == 2 * OPT.parameters + 4 * 24 * 32 * 64 * 640
    decode = Step(decode_sequences=1, decode_context=100)
    assert step_bytes(OPT, decode) == OPT.weights_bytes + 101 * OPT.kv_bytes_per_token
    prefill = Step(decode_sequences=0, decode_context=0, prefill_tokens=512, prefill_context=256)
    # Prompt tokens but the last pass no output matrix.
    without = roofline.flops_per_token(OPT, 256) - 2 * OPT.vocab_size * OPT.hidden_size
    assert step_flops(OPT, prefill) == 512 * without


def test_one_sequence_is_bound_by_bandwidth_and_a_long_prompt_by_arithmetic() -> None:
    slow = rates(HARDWARE["l4-24gb"], WHOLE)
    decode, prefill = Step(1, 640), Step(0, 0, prefill_tokens=2048, prefill_context=1024)
    fixed = roofline.fixed_seconds(OPT, slow)
    reading, computing = (roofline.step_seconds(OPT, s, slow) - fixed for s in (decode, prefill))
    assert reading == pytest.approx(
        step_bytes(OPT, decode) / slow.bytes_per_s + slow.sequence_seconds
    )
    assert computing == pytest.approx(step_flops(OPT, prefill) / slow.flops_per_s)


def test_prompts_beyond_the_token_budget_take_more_steps() -> None:
    reached = rates(A100, WHOLE)
    few = RoundCase(OPT, Workload(512, 256), reached, 2048).round(8)
    many = RoundCase(OPT, Workload(2048, 32), reached, 2048).round(64)
    assert few.steps == pytest.approx(257 / 256)  # a slot misses one step between two requests
    assert 65 / 32 <= many.steps < 1.15 * 65 / 32  # never fewer than its tokens fill


def mps(percent: int) -> PartitionSize:
    return PartitionSize(SharingMode.MPS, 1, percent)


@pytest.mark.parametrize(
    ("size", "flops", "bandwidth"),
    [
        # A share computes with its SMs, and draws bandwidth early.
        (mps(50), 1 / 2, 1),
        (mps(10), 1 / 10, 1 / 5),
        # A slice has its SMs and its memory slices.
        (PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb"), 14 / 108, 1 / 8),
    ],
)
def test_a_partition_has_its_part(size: PartitionSize, flops: float, bandwidth: float) -> None:
    whole, part = rates(A100, WHOLE), rates(A100, size)
    assert part.flops_per_s == pytest.approx(whole.flops_per_s * flops)
    assert part.bytes_per_s == pytest.approx(whole.bytes_per_s * bandwidth)


def test_cpu_cores_add_up_to_what_the_host_has() -> None:
    host = cpu_hardware("cpu-x-2c", 2, 8 * GIB)
    one, two, four = (rates(host, PartitionSize(SharingMode.CORES, n)) for n in (1, 2, 4))
    assert two.flops_per_s == 2 * one.flops_per_s
    assert four == two


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (mps(0), mps(0).key),
        (PartitionSize(SharingMode.CORES, 2), "cores-2"),
        (PartitionSize(SharingMode.MIG, 1, 100, "2g.20gb"), r"2g\.20gb"),
    ],
)
def test_a_partition_without_an_estimate_is_refused_by_name(
    size: PartitionSize, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        rates(A100, size)


def test_fp8_weights_compute_faster_only_where_the_hardware_has_fp8() -> None:
    h100 = HARDWARE["h100-80gb"]
    assert rates(h100, WHOLE, quantization="fp8").flops_per_s > rates(h100, WHOLE).flops_per_s
    assert rates(A100, WHOLE, quantization="fp8") == rates(A100, WHOLE)
    assert rates(A100, WHOLE, dtype="float32").flops_per_s < rates(A100, WHOLE).flops_per_s


def test_a_mixture_reads_more_experts_the_more_tokens_a_step_has() -> None:
    read = [roofline.weights_read_bytes(MOE, tokens) for tokens in (1, 2, 8, 64, 1000)]
    assert read == sorted(read)
    assert read[0] == pytest.approx(MOE.weights_bytes * (1 / 2 + 1 / 16), rel=1e-3)
    assert read[-1] == pytest.approx(MOE.weights_bytes, rel=1e-3)
    assert roofline.flops_per_token(MOE, 0) == 2 * MOE.active_parameters


def test_a_window_bounds_what_a_long_context_costs() -> None:
    windowed = dataclasses.replace(OPT, window_tokens=256, window_layers=OPT.layers)
    far = Step(decode_sequences=1, decode_context=4096)
    near = Step(decode_sequences=1, decode_context=256)
    assert step_bytes(windowed, far) == step_bytes(windowed, near)
    assert step_flops(windowed, far) == step_flops(windowed, near)
    assert step_bytes(OPT, far) > step_bytes(OPT, near)


@given(
    st.integers(1, 512),
    st.sampled_from([("bandwidth_bytes_per_s", 2.0), ("flops_16bit", 3.0)]),
    st.integers(1, 99),
)
def test_faster_hardware_and_more_sms_are_never_slower(
    batch: int, change: tuple[str, float], percent: int
) -> None:
    field, factor = change
    faster = dataclasses.replace(A100, **{field: factor * getattr(A100, field)})
    here, there, more, whole = (
        RoundCase(OPT, Workload(512, 256), rates(hardware, size), 2048).round(batch).seconds
        for hardware, size in (
            (A100, mps(percent)), (faster, mps(percent)), (A100, mps(percent + 1)), (A100, WHOLE)
        )
    )  # fmt: skip
    assert there <= here
    assert whole <= more <= here
