import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware import SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.profile import (
    Footprint,
    Knee,
    Latency,
    OperatingPoint,
    Profile,
    ProfileKind,
    Provenance,
)
from partitiond.core.units import Bytes
from partitiond.core.workload import Workload
from partitiond.simulation.steps import StepModel, constant_steps, fit_steps

WORKLOAD = Workload(prompt_tokens=64, output_tokens=32)


def throughput(steps: StepModel, batch: int) -> float:
    """Output tokens/s of a closed loop: `batch` prefills and O - 1 decode steps a round."""
    prompt, output = WORKLOAD.prompt_tokens, WORKLOAD.output_tokens
    round_seconds = batch * steps.step_seconds(0, prompt)
    round_seconds += (output - 1) * steps.step_seconds(batch, 0)
    return batch * output / round_seconds


def profile_of(true: StepModel, batches: tuple[int, ...]) -> Profile:
    """What would be measured on an engine with these step times."""
    flat = Latency(1.0, 1.0, 1.0, 1.0)
    first = true.step_seconds(0, WORKLOAD.prompt_tokens)
    points = tuple(
        OperatingPoint(
            batch=batch,
            output_tokens_per_s=throughput(true, batch),
            half_width=0.0,
            req_per_s=throughput(true, batch) / WORKLOAD.output_tokens,
            ttft=Latency(first * batch, first, first, first),
            tpot=flat,
            itl=flat,
            e2el=flat,
            kv_tokens=1,
            footprint_bytes=Bytes(1),
        )
        for batch in batches
    )
    zero = Bytes(0)
    return Profile(
        id="p",
        model="m",
        kind=ProfileKind.MEASURED,
        hardware="h",
        size=PartitionSize(SharingMode.CORES, 1),
        workload=WORKLOAD,
        dtype="bfloat16",
        points=points,
        knee=Knee(batches[-1], None, None, 0.05, 1.0, None, batches[-1]),
        footprint=Footprint(zero, zero, zero, zero, zero, 0, zero),
        kv_cache_tokens=1,
        provenance=Provenance("e", "v", (), "dummy", None, "h", "d", "", (), 0, "t", 1.0, "0"),
    )


@given(
    st.floats(0.001, 0.1),
    st.lists(st.floats(0.0, 0.05), min_size=3, max_size=3),
    st.floats(1e-6, 1e-4),
)
def test_a_fitted_engine_has_the_throughput_that_was_measured(
    first: float, growth: list[float], prefill: float
) -> None:
    batches = (1, 4, 16, 64)
    decode = [first]
    for step in growth:
        decode.append(decode[-1] + step)
    true = StepModel(tuple(zip(batches, decode, strict=True)), prefill)
    fitted = fit_steps(profile_of(true, batches))
    for batch in batches:
        assert throughput(fitted, batch) == pytest.approx(throughput(true, batch), rel=0.01)


@given(st.floats(1e-4, 1.0), st.integers(1, 500))
def test_more_sequences_never_make_a_step_shorter(token_seconds: float, batch: int) -> None:
    steps = constant_steps(token_seconds)
    assert steps.step_seconds(batch + 1, 0) >= steps.step_seconds(batch, 0)
    assert steps.step_seconds(batch, 10) > steps.step_seconds(batch, 0)


def test_between_points_linear_and_beyond_by_the_last_slope() -> None:
    steps = StepModel(((1, 1.0), (3, 2.0)), 0.5)
    assert [steps.step_seconds(b, 0) for b in (1, 2, 3, 5)] == [1.0, 1.5, 2.0, 3.0]
    assert steps.step_seconds(0, 4) == 2.0


def test_one_point_is_enough() -> None:
    steps = fit_steps(profile_of(constant_steps(0.01), (1,)))
    assert steps.step_seconds(1, 0) == pytest.approx(0.01)
    assert steps.step_seconds(8, 0) == pytest.approx(0.01)
