import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.precision import as_loaded
from partitiond.core.model.workload import Workload
from partitiond.core.performance.engine_speed import RooflineSteps
from partitiond.core.performance.roofline import Step, prompt_context, rates, step_seconds
from partitiond.core.profile.points import Footprint, Knee, Latency, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import Bytes
from partitiond.models.catalog import CATALOG
from partitiond.simulated.steps import (
    StepModel,
    constant_steps,
    fit_steps,
)

WORKLOAD = Workload(prompt_tokens=64, output_tokens=32)


def throughput(steps: StepModel, batch: int) -> float:
    """Output tokens/s of a closed loop whose slots miss a step between two requests.

    A round of `batch` requests is `batch` prefills and O + 1 steps, of which each decodes in O - 1.
    """
    prompt, output = WORKLOAD.prompt_tokens, WORKLOAD.output_tokens
    round_seconds = batch * steps.step_seconds(0, prompt)
    if batch == 1:  # no step is under way
        round_seconds += (output - 1) * steps.step_seconds(1, 0)
    else:
        sequences = batch * (output - 1) / (output + 1)
        round_seconds += (output + 1) * steps.step_seconds(sequences, 0)  # type: ignore[arg-type]
    return batch * output / round_seconds


def profile_of(true: StepModel, batches: tuple[int, ...]) -> Profile:
    """What would be measured on an engine with these step times."""
    flat = Latency(1.0, 1.0, 1.0, 1.0)
    first = true.step_seconds(0, WORKLOAD.prompt_tokens)
    points = tuple(
        OperatingPoint(
            batch, rate, 0.0, rate / WORKLOAD.output_tokens,
            Latency(first * batch, first, first, first), flat, flat, flat, 1, Bytes(1),
        )
        for batch in batches
        for rate in [throughput(true, batch)]
    )  # fmt: skip
    zero = Bytes(0)
    return Profile(
        "p", "m", ProfileKind.MEASURED, "h", PartitionSize(SharingMode.CORES, 1), WORKLOAD,
        "bfloat16", points, Knee(batches[-1], None, None, 0.05, 1.0, None, batches[-1]),
        Footprint(zero, zero, zero, zero, zero, 0, zero), 1,
        Provenance("e", "v", (), "dummy", None, "h", "d", "", (), 0, "t", 1.0, "0"),
    )  # fmt: skip


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


def test_between_points_linear_and_beyond_by_the_last_slope() -> None:
    """Below the first one by its slope, but never out of proportion."""
    rise = StepModel(((1, 1.0), (3, 2.0)), 0.5)
    assert [rise.step_seconds(b, 0) for b in (1, 2, 3, 5)] == [1.0, 1.5, 2.0, 3.0]
    assert rise.step_seconds(0, 4) == 2.0
    for points, batch, seconds in (
        (((4, 1.0), (8, 1.4), (9, 3.0)), 2, 0.8),
        (((4, 1.0), (8, 5.0)), 1, 0.25),
    ):
        assert StepModel(points, 0.0).step_seconds(batch, 0) == pytest.approx(seconds)
    # One point is enough, and points that the cache held back do not count.
    steps = fit_steps(profile_of(constant_steps(0.01), (1,)))
    assert [steps.step_seconds(n, 0) for n in (1, 8)] == pytest.approx([0.01, 0.01])
    profile = profile_of(constant_steps(0.01), (4, 16))
    slow = dataclasses.replace(profile.points[1], batch=32, output_tokens_per_s=1.0)
    limited = dataclasses.replace(slow, kv_limited=True)
    with_it = dataclasses.replace(profile, points=(*profile.points, limited))
    assert fit_steps(with_it) == fit_steps(profile)


def test_a_roofline_step_is_the_estimates_own() -> None:
    hardware = HARDWARE["a100-80gb"]
    reached = rates(hardware, PartitionSize(SharingMode.WHOLE, 1, 100))
    architecture = as_loaded(CATALOG["opt-1.3b"].architecture)
    steps = RooflineSteps(architecture, reached, prompt_context(WORKLOAD))
    step = Step(8, 100.0, 64, prompt_context(WORKLOAD))
    assert steps.step_seconds(8, 64, 800) == step_seconds(architecture, step, reached)
    assert steps.step_seconds(8, 0, 80_000) > steps.step_seconds(8, 0, 800)
