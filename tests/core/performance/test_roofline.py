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
from partitiond.core.performance.rounds import decode_round, round_terms
from partitiond.core.units import GIB
from partitiond.models.catalog import CATALOG

OPT = CATALOG["opt-1.3b"].architecture
A100 = HARDWARE["a100-40gb"]
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


def test_flops_per_token_is_2n_plus_4lhqt() -> None:
    assert roofline.flops_per_token(OPT, 640) == 2 * OPT.parameters + 4 * 24 * 32 * 64 * 640


def test_decoding_one_token_reads_the_weights_and_its_context() -> None:
    step = Step(decode_sequences=1, decode_context=100)
    assert step_bytes(OPT, step) == OPT.weights_bytes + 101 * OPT.kv_bytes_per_token


def test_prefill_adds_arithmetic_for_each_prompt_token() -> None:
    alone = Step(decode_sequences=0, decode_context=0, prefill_tokens=512, prefill_context=256)
    # Prompt tokens but the last pass no output matrix.
    without = roofline.flops_per_token(OPT, 256) - 2 * OPT.vocab_size * OPT.hidden_size
    assert step_flops(OPT, alone) == 512 * without


def test_one_sequence_is_bound_by_bandwidth_and_a_long_prompt_by_arithmetic() -> None:
    slow_memory = rates(HARDWARE["l4-24gb"], WHOLE)
    decode = Step(decode_sequences=1, decode_context=640)
    prefill = Step(decode_sequences=0, decode_context=0, prefill_tokens=2048, prefill_context=1024)
    work = roofline.step_seconds(OPT, decode, slow_memory) - roofline.fixed_seconds(
        OPT, slow_memory
    )
    assert work == pytest.approx(
        step_bytes(OPT, decode) / slow_memory.bytes_per_s + slow_memory.sequence_seconds
    )
    work = roofline.step_seconds(OPT, prefill, slow_memory) - roofline.fixed_seconds(
        OPT, slow_memory
    )
    assert work == pytest.approx(step_flops(OPT, prefill) / slow_memory.flops_per_s)


@given(st.integers(1, 511), st.integers(1, 2048), st.integers(1, 2048))
def test_a_larger_batch_takes_longer_per_round_and_never_loses_throughput(
    batch: int, prompt: int, output: int
) -> None:
    workload, reached = Workload(prompt, output), rates(A100, WHOLE)
    one, more = (decode_round(OPT, workload, b, reached, 2048).seconds for b in (batch, batch + 1))
    assert more > one
    assert (batch + 1) / more >= batch / one * (1 - 1e-9)


def test_prompts_beyond_the_token_budget_take_more_steps() -> None:
    reached = rates(A100, WHOLE)
    few = decode_round(OPT, Workload(512, 256), 8, reached, 2048)
    many = decode_round(OPT, Workload(2048, 32), 64, reached, 2048)
    assert few.steps == pytest.approx(257 / 256)  # a slot misses one step between two requests
    assert 65 / 32 <= many.steps < 1.15 * 65 / 32  # never fewer than its tokens fill


def test_an_mps_share_computes_with_its_sms_and_draws_bandwidth_early() -> None:
    whole, half = (rates(A100, PartitionSize(SharingMode.MPS, 1, p)) for p in (100, 50))
    assert half.flops_per_s == whole.flops_per_s / 2
    assert half.bytes_per_s == whole.bytes_per_s
    tenth = rates(A100, PartitionSize(SharingMode.MPS, 1, 10))
    assert tenth.bytes_per_s == pytest.approx(whole.bytes_per_s / 5)


def test_cpu_cores_add_up_to_what_the_host_has() -> None:
    host = cpu_hardware("cpu-x-2c", 2, 8 * GIB)
    one, two, four = (rates(host, PartitionSize(SharingMode.CORES, n)) for n in (1, 2, 4))
    assert two.flops_per_s == 2 * one.flops_per_s
    assert four == two


@pytest.mark.parametrize(
    "size",
    [
        PartitionSize(SharingMode.MPS, 1, 0),
        PartitionSize(SharingMode.CORES, 2),
    ],
)
def test_a_partition_without_an_estimate_is_refused_by_name(size: PartitionSize) -> None:
    with pytest.raises(SpecError, match=size.key):
        rates(A100, size)


def test_a_mig_slice_has_its_sms_and_its_memory_slices() -> None:
    whole, one = (
        rates(A100, size) for size in (WHOLE, PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb"))
    )
    assert one.flops_per_s == pytest.approx(whole.flops_per_s * 14 / 108)
    assert one.bytes_per_s == pytest.approx(whole.bytes_per_s / 8)


def test_a_slice_the_gpu_does_not_offer_is_refused() -> None:
    with pytest.raises(SpecError, match=r"2g\.20gb"):
        rates(A100, PartitionSize(SharingMode.MIG, 1, 100, "2g.20gb"))


def test_fp8_weights_compute_faster_only_where_the_hardware_has_fp8() -> None:
    h100 = HARDWARE["h100-80gb"]
    assert rates(h100, WHOLE, quantization="fp8").flops_per_s > rates(h100, WHOLE).flops_per_s
    assert rates(A100, WHOLE, quantization="fp8") == rates(A100, WHOLE)
    assert rates(A100, WHOLE, dtype="float32").flops_per_s < rates(A100, WHOLE).flops_per_s


def test_a_mixture_reads_more_experts_the_more_tokens_a_step_has() -> None:
    moe = dataclasses.replace(
        OPT,
        experts=64,
        experts_per_token=8,
        expert_parameters=OPT.parameters // 2,
        active_parameters=OPT.parameters // 2 + OPT.parameters // 16,
    )
    read = [roofline.weights_read_bytes(moe, tokens) for tokens in (1, 2, 8, 64, 1000)]
    assert read == sorted(read)
    assert read[0] == pytest.approx(moe.weights_bytes * (1 / 2 + 1 / 16), rel=1e-3)
    assert read[-1] == pytest.approx(moe.weights_bytes, rel=1e-3)
    assert roofline.flops_per_token(moe, 0) == 2 * moe.active_parameters


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
    st.sampled_from([WHOLE, PartitionSize(SharingMode.MPS, 1, 30)]),
)
def test_faster_hardware_is_never_slower(
    batch: int, change: tuple[str, float], size: PartitionSize
) -> None:
    field, factor = change
    faster = dataclasses.replace(A100, **{field: factor * getattr(A100, field)})
    workload = Workload(512, 256)
    slow, fast = (
        decode_round(OPT, workload, batch, rates(h, size), 2048).seconds for h in (A100, faster)
    )
    assert fast <= slow


@given(st.integers(1, 512), st.integers(1, 99))
def test_more_sms_are_never_slower(batch: int, percent: int) -> None:
    workload = Workload(512, 256)
    few, more = (
        decode_round(
            OPT, workload, batch, rates(A100, PartitionSize(SharingMode.MPS, 1, p)), 2048
        ).seconds
        for p in (percent, percent + 1)
    )
    assert more <= few


@given(st.integers(1, 512), st.booleans())
def test_the_terms_of_a_round_add_up_to_it(batch: int, on_gpu: bool) -> None:
    workload = Workload.lognormal(300, 100, 0.8, 1.0)
    hardware = A100 if on_gpu else cpu_hardware("cpu-x-2c", 2, 8 * GIB)
    size = WHOLE if on_gpu else PartitionSize(SharingMode.CORES, 2)
    reached = rates(hardware, size)
    terms = round_terms(OPT, workload, batch, reached, 2048)
    work = terms.weights + terms.kv
    work = max(work, terms.compute) + terms.lumps if on_gpu else work + terms.compute
    assert terms.lumps >= 0
    assert on_gpu or terms.lumps == 0
    expected = decode_round(OPT, workload, batch, reached, 2048).seconds
    assert work + terms.fixed + terms.sequences == pytest.approx(expected)


def test_longer_prompts_at_the_same_mean_occupancy_cost_what_they_hold() -> None:
    fixed, varied = Workload(512, 256), Workload.lognormal(512, 256, 1.0, 1.0)
    reached = rates(A100, WHOLE)
    one, other = (decode_round(OPT, w, 64, reached, 2048).seconds for w in (fixed, varied))
    assert other > one  # a busy slot holds more, because long outputs stay longer
