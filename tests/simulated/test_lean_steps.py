"""Step times that are found faster equal the step times of the plain way."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import Workload
from partitiond.core.performance.roofline import rates
from partitiond.models.catalog import CATALOG
from partitiond.simulated.steps import LeanRoofline, lean_steps, roofline_steps

A100 = hardware_for_key("a100-80gb")
SIZE = PartitionSize(SharingMode.MPS, 1, 25)
DENSE: tuple[Architecture, ...] = tuple(
    CATALOG[name].architecture for name in ("opt-125m", "opt-6.7b", "qwen2.5-0.5b")
)


@given(
    st.sampled_from(DENSE),
    st.booleans(),
    st.integers(0, 512),
    st.integers(0, 4096),
    st.integers(0, 2000),
)
def test_a_dense_model_takes_the_same_time(
    architecture: Architecture, overlaps: bool, decoding: int, prefill: int, context: int
) -> None:
    reached = dataclasses.replace(rates(A100, SIZE), overlaps=overlaps)
    steps = roofline_steps(architecture, reached, Workload(256, 128))
    lean = lean_steps(steps)
    assert isinstance(lean, LeanRoofline)
    assert lean.step_seconds(decoding, prefill, decoding * context) == pytest.approx(
        steps.step_seconds(decoding, prefill, decoding * context), rel=1e-9
    )


def test_what_does_not_grow_in_proportion_stays_as_it_is() -> None:
    windows = dataclasses.replace(DENSE[0], window_layers=4, window_tokens=128)
    steps = roofline_steps(windows, rates(A100, SIZE), Workload(256, 128))
    assert lean_steps(steps) is steps
