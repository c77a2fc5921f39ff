"""The load that is sent is the load that was predicted."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Endpoint
from partitiond.core.model.spec import EngineOptions
from partitiond.core.model.workload import Workload
from partitiond.profiler.sweep.load import lengths_of, load_of
from tests.profiler.samples import ARCHITECTURE, request_of

TRACES = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 2000)), min_size=1, max_size=50)
COUNTS, VARIATIONS = st.integers(1, 1000), st.floats(0.1, 2)


@given(
    TRACES.map(Workload.of_trace)
    | st.builds(Workload.lognormal, COUNTS, COUNTS, VARIATIONS, VARIATIONS)
)
def test_lengths_are_sent_as_their_moments_say(workload: Workload) -> None:
    lengths = lengths_of(workload)
    assert lengths is not None
    assert lengths.mean_output == pytest.approx(workload.moments.o)
    assert lengths.mean_prompt == pytest.approx(workload.moments.p)
    assert lengths.longest == workload.longest_tokens


@given(TRACES)
def test_a_trace_is_sent_pair_by_pair(pairs: list[tuple[int, int]]) -> None:
    lengths = lengths_of(Workload.of_trace(pairs))
    assert lengths is not None
    assert {lengths.pair(n, 7) for n in range(100)} <= set(pairs)


def test_fixed_lengths_need_no_list() -> None:
    assert lengths_of(Workload(512, 256)) is None


def test_phases_never_send_the_same_prompts() -> None:
    loads = [load_of(request_of(), ARCHITECTURE, phase) for phase in range(4)]
    assert len({load.seed for load in loads}) == 4
    assert load_of(request_of(), ARCHITECTURE).seed == 3


def test_token_ids_stay_inside_a_small_vocabulary() -> None:
    small = dataclasses.replace(ARCHITECTURE, vocab_size=500)
    assert load_of(request_of(), small).last_token_id == 499


@pytest.mark.parametrize(
    ("words", "endpoint", "extra"),
    [
        ("", Endpoint.COMPLETIONS, set()),
        ("--runner pooling", Endpoint.POOLING, {"encoding_format"}),
        ("--runner pooling --convert classify", Endpoint.CLASSIFY, set()),
    ],
)
def test_an_engine_is_asked_for_what_it_does(
    words: str, endpoint: Endpoint, extra: set[str]
) -> None:
    asked = request_of(engine=EngineOptions(extra_args=tuple(words.split())))
    load = load_of(asked, ARCHITECTURE)
    assert (load.endpoint, set(load.extra)) == (endpoint, extra)
