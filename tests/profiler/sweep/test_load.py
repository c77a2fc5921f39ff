"""The load that is sent is the load that was predicted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.workload import Workload
from partitiond.profiler.sweep.load import lengths_of, load_of
from tests.profiler.conftest import ARCHITECTURE

PAIRS = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 2000)), min_size=1, max_size=50)


@given(PAIRS)
def test_a_trace_is_sent_as_its_moments_say(pairs: list[tuple[int, int]]) -> None:
    workload = Workload.of_trace(pairs)
    lengths = lengths_of(workload)
    assert lengths is not None
    assert lengths.mean_output == pytest.approx(workload.moments.o)
    assert lengths.mean_prompt == pytest.approx(workload.moments.p)
    assert lengths.longest == workload.longest_tokens
    assert {lengths.pair(n, 7) for n in range(100)} <= set(pairs)


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.1, 2), st.floats(0.1, 2))
def test_a_lognormal_is_sent_as_its_moments_say(p: int, o: int, vp: float, vo: float) -> None:
    workload = Workload.lognormal(p, o, vp, vo)
    lengths = lengths_of(workload)
    assert lengths is not None
    assert lengths.mean_output == pytest.approx(workload.moments.o)
    assert lengths.mean_prompt == pytest.approx(workload.moments.p)
    assert lengths.longest == workload.longest_tokens


def test_fixed_lengths_need_no_list() -> None:
    assert lengths_of(Workload(512, 256)) is None


def test_phases_never_send_the_same_prompts(request_of: Any) -> None:
    loads = [load_of(request_of(), ARCHITECTURE, phase) for phase in range(4)]
    assert len({load.seed for load in loads}) == 4
    assert load_of(request_of(), ARCHITECTURE).seed == 3


def test_token_ids_stay_inside_a_small_vocabulary(request_of: Any) -> None:
    import dataclasses

    small = dataclasses.replace(ARCHITECTURE, vocab_size=500)
    assert load_of(request_of(), small).last_token_id == 499
