"""Step times follow from arithmetic and traffic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware import HARDWARE, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.roofline import (
    Step,
    cpu_hardware,
    decode_round,
    flops_per_token,
    rates,
    step_bytes,
    step_flops,
    step_seconds,
)
from partitiond.core.units import GIB
from partitiond.core.workload import Workload
from partitiond.models.catalog import CATALOG

OPT = CATALOG["opt-1.3b"].architecture
A100 = HARDWARE["a100-40gb"]
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


def test_flops_per_token_is_2n_plus_4lhqt() -> None:
    assert flops_per_token(OPT, 640) == 2 * OPT.parameters + 4 * 24 * 32 * 64 * 640


def test_decoding_one_token_reads_the_weights_and_its_context() -> None:
    step = Step(decode_sequences=1, decode_context=100)
    assert step_bytes(OPT, step) == OPT.weights_bytes + 101 * OPT.kv_bytes_per_token


def test_prefill_adds_arithmetic_for_each_prompt_token() -> None:
    alone = Step(decode_sequences=0, decode_context=0, prefill_tokens=512, prefill_context=256)
    assert step_flops(OPT, alone) == 512 * flops_per_token(OPT, 256)


def test_one_sequence_is_bound_by_bandwidth_and_a_long_prompt_by_arithmetic() -> None:
    slow_memory = rates(HARDWARE["l4-24gb"], WHOLE)
    decode = Step(decode_sequences=1, decode_context=640)
    prefill = Step(decode_sequences=0, decode_context=0, prefill_tokens=2048, prefill_context=1024)
    work = step_seconds(OPT, decode, slow_memory) - slow_memory.step_seconds
    assert work == pytest.approx(
        step_bytes(OPT, decode) / slow_memory.bytes_per_s + slow_memory.sequence_seconds
    )
    work = step_seconds(OPT, prefill, slow_memory) - slow_memory.step_seconds
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
    assert decode_round(OPT, Workload(512, 256), 8, reached, 2048).steps == 1
    assert decode_round(OPT, Workload(2048, 32), 64, reached, 2048).steps == pytest.approx(65 / 32)


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
        PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb"),
        PartitionSize(SharingMode.MPS, 1, 0),
        PartitionSize(SharingMode.CORES, 2),
    ],
)
def test_a_partition_without_an_estimate_is_refused_by_name(size: PartitionSize) -> None:
    with pytest.raises(SpecError, match=size.key):
        rates(A100, size)
